"""Why did the model answer that: explanations of single predictions, on numpy arrays.

Each algorithm is a file that knows no server and no wire: it gets an instance and a function that asks the
model for many rows at once (`base.Ask`), and answers an `Explanation`. What makes one from a folder and
a configuration is `registry`; who asks the model is `penstock.runtimes.explainer`.
"""
