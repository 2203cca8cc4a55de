"""One module a product: it starts the product's server, if it has one, and is its client.

The rule of this folder: a worker runs in its product's environment. It imports that product, pyarrow, and its
neighbours here; nothing else of this repository.
"""
