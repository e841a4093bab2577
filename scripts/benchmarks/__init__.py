"""The parts that benchmark scripts share: workload, peers for comparison, worker processes, tables and JSON."""
