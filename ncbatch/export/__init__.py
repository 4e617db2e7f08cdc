"""A model for programs other than ncbatch: its files, and decoders that need nothing else of ours."""
