"""Jobs on the nodes of a Ray cluster: the one door for Ray.

`cluster` says which nodes there are and what they have; `keeper` is an actor that outlives the
session and owns the tasks; `node` does a job on a node, by the same worker processes as anywhere;
`executor` is what the pipeline sees. Files travel through folders that every node sees at the same
path, which is checked before the start.
"""
