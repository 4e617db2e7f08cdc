"""The Python API: what `import ncbatch` offers. Import its names from `ncbatch`, which loads them lazily."""
