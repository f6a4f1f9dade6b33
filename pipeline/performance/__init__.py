"""FLOPs, matmul rate, throughput, batch size, and what the machine decides."""
