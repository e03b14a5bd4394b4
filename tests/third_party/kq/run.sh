python enqueue.py
python work.py
