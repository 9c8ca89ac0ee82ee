"""The graph of pipeline.yaml, made in Python: `python examples/graphs/pipeline.py | penstock apply -f -`."""

from penstock.graph import Pipeline

flowers = Pipeline("flowers", spec={"timeout": "5s"})
inches = flowers.step("inches")
flowers.answer(
    flowers.step("petals", inputs=[inches], predictions_as_instances=True),
    flowers.step("odds", inputs=[inches], predictions_as_instances=True),
    combine="object",
)

if __name__ == "__main__":
    print(flowers.yaml(), end="")
