"""A ROUTER for Seldon's Python wrapper: the child with the best rewards so far, now and then another."""

import random


class Picks:
    def __init__(self, n_branches=2, epsilon=0.1, seed=0):
        self.epsilon = epsilon
        self.random = random.Random(seed)
        self.pulls = [0] * n_branches
        self.rewards = [0.0] * n_branches

    def route(self, features, feature_names):
        if self.random.random() < self.epsilon:
            return self.random.randrange(len(self.pulls))
        means = [r / n if n else 1.0 for r, n in zip(self.rewards, self.pulls, strict=True)]
        return means.index(max(means))

    def send_feedback(self, features, feature_names, reward, truth, routing=None):
        if routing is not None and 0 <= routing < len(self.pulls):
            self.pulls[routing] += 1
            self.rewards[routing] += reward

    def metrics(self):
        return [
            {"type": "GAUGE", "key": "pulls", "value": n, "tags": {"branch": str(i)}}
            for i, n in enumerate(self.pulls)
        ]
