"""What `ncbatch export-decoder` copies beside a model. Nothing here imports anything of ncbatch."""
