"""What the benchmark scripts share: the workload, peers written for comparison, worker processes, tables and JSON."""
