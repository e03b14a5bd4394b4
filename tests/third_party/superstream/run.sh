python -m superclient install_pth > install.out
SUPERSTREAM_TOPICS_LIST="$RUN-orders" python send.py 2> send.err
