"""Records handed to threads, tasks and queues: who works on one does so in its trace."""
