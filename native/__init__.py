"""The border to C: BPF loader and ring drain, kernel-log batches, kernel symbols."""
