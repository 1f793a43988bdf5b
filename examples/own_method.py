"""An idea of your own in a few lines, searched and proved like any built-in method.

python examples/own_method.py
"""

import torch

import paredown


@paredown.register_method("shrink_tails")
class ShrinkTails:
    """Zero the smallest weights of every MLP matrix."""

    search_space = {"share": [0.1, 0.3]}

    def apply(self, model, share=0.1):
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if ".mlp." in name and weight.dim() == 2:
                    small = (
                        weight.abs()
                        <= weight.abs()
                        .flatten()
                        .kthvalue(max(int(share * weight.numel()), 1))
                        .values
                    )
                    weight[small] = 0


done = paredown.compress("demo", "shrink_tails(share=0.1) > rtn(bits=8)", "own-method")
print(done.folder, done.loads_in)
