"""What a run uses: time, memory, operations, as metrics beside its accuracy."""
