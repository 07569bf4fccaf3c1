"""What belongs to the process and its machine: files, memory, threads, imports, signals."""
