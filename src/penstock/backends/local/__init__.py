"""Replicas as processes of this machine: the node that `penstock serve` is, and its client.

From the outside in: `node` owns everything and holds the `lock`; `children` are the processes it starts by
exec (control plane, gateways); `zygotes` start one `zygote` per framework, which forks the model processes;
each of those is a `replica` with `logs` and `limits`. The control plane reaches all this through `client`.
"""
