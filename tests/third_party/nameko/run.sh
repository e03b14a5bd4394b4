python order.py
nameko run --config empty.yaml shipping > nameko.out 2>&1 &
python receive.py
kill $!
wait $! || echo "nameko ended with $?"
