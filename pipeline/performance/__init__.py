"""FLOPs, matmul rate, throughput, batch size, and defaults that depend on the machine."""
