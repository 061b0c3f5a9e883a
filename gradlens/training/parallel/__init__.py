"""One run on several processes: blocks over ranks, pipelines, queues, and how blocks are divided."""
