"""ncbatch: bulk-encodes image corpora with a learned codec that optimises every image's latents."""

__version__ = "0.1.0"
