"""The sentences that experiments record, with names for their values: see `recorded`.

They stand here a second time because they are written where nobody knows who will read them. A
test compares each with the source, so that a sentence that changes there is noticed here.
"""

from __future__ import annotations

from paredown.language import marked

FORMS: tuple[str, ...] = (
    # Why a run ended.
    marked("all episodes are used"),
    marked("the time budget is used up"),
    marked("all {count} strategies of the space were tried"),
    marked(
        "the {left} s left are too few for any strategy: the shortest is expected to take "
        "{shortest} s"
    ),
    marked("converged: all limits are met and {why}"),
    marked("converged: {why}"),
    marked(
        "nothing better is expected, as the last {count} episodes took {cost} of the time and "
        "brought {gain} of the hypervolume (worth it: {worth})"
    ),
    marked("stopped by the user (Ctrl-C); continue with --resume"),
    marked("stopped by the user (stop); continue with --resume"),
    marked("stopped at once by the user (Ctrl-C)"),
    marked("only the uncompressed model was asked for"),
    # Why a strategy was tried.
    marked("asked for by the user"),
    marked("was interrupted; runs again"),
    marked("{reason}; excluded by the user: {names}"),
    marked("{reason}, beyond what is listed"),
    marked("opening: a method not seen yet"),
    marked("known to work on other models ({place} of {count} to begin with)"),
    marked("the loss of the named quality is forecast from the text: nothing was scored yet"),
    marked("warm start ({place} of {count})"),
    marked("its loss is known of the text alone, not of the named quality"),
    marked("bits chosen layer by layer for files of at most {size}"),
    marked(
        "bits chosen layer by layer for a KL of {kl} nats per token, within what may be lost "
        "({limits})"
    ),
    marked(
        "bits layer by layer at {bits} bits per weight ({size}): a KL of {kl} is expected, within "
        "a factor of {factor} (measured: plans {plans}, uniform models {uniform}), and {gain}"
    ),
    marked("most gain, {gain} of the box of trade-offs"),
    marked("no gain of any plan"),
    marked("no gain is expected of anything: next in the order of the space"),
    marked("expected to add most per second: {gain} of the box of trade-offs in {seconds} s"),
    marked("nothing to learn from yet: next in the order of the space"),
    marked("{count} draws fell on known strategies: next in the order of the space"),
    marked("likeliest to be good, judged by {count} trials on {by}"),
    marked("no parents with untried children: next in the order of the space"),
    marked("{name} in place of {other}"),
    marked("{method} promises most gain per second ({bound} of par); {why}"),
    marked("all that is listed was tried"),
    marked("next in the order of the space ({place} of {count})"),
    marked("drawn evenly from {count} strategies not tried yet"),
    marked("drawn from the space"),
    marked("{reason} [{account}]"),
    marked("{name}: due {due} of the cost, used {used}"),
    # What is to be known of a result.
    marked("plain transformers"),
    marked("{runtime} loads it (checked)"),
    marked("{runtime} reads this format (not run here)"),
    marked("{runtime} knows this format; whether it reads it of {detail} is untested"),
    marked("not scored on {benchmarks}: {reason}"),
    marked("MLPs of unequal width: only paredown loads them"),
    marked("energy was not measured: {reason}"),
    marked(
        "{name}: its {part} part has {found} windows of {length} tokens; all of them are used, "
        "where {usual} are usual"
    ),
    marked("evaluation"),
    marked("calibration"),
    marked("{count} passages stand in the evaluation text too, and are left out of calibration"),
    marked(
        "the result of {steps} was there from an earlier trial, where it took {time}; the search "
        "reckons with them"
    ),
    marked(
        "forecast at {forecast} of weights, stored {stored}: what {methods} leaves is known once "
        "it has measured the model"
    ),
    marked(
        "{runtime} answers as the artifact does in torch up to KL {kl} nats per token, on random "
        "tokens; its own arithmetic, on the uncompressed model, makes {base}"
    ),
    # Why something was refused or failed.
    marked("no time left"),
    marked("stopped at {size}: the limit is {limit}"),
    marked("predicted ratio {ratio}x < {bound}x"),
    marked("weights alone take {size} GB > {bound} GB"),
    marked("its files take {size} > {bound}"),
    marked("{name}: the weights are {dtype} already; leave the step out"),
    marked(
        "fp16: the weights are BF16; float16 is no smaller and has less range; leave the step out"
    ),
    marked(
        "fp8: CPUs have no FP8 arithmetic, the model would only be slower; use smoothquant or "
        "rtn(bits=8), or a GPU"
    ),
    marked("{name}: {architecture} has no vision tower; use structured_afr"),
    marked("{architecture}: there is only one key-value head"),
    marked(
        "{name}: {architecture} is not of the type it knows (LLaVA with one tile per image, "
        "fc1/fc2 in the tower); structured_afr prunes its language model"
    ),
    marked("{what}: leaves half of the weights: use ratio = 0.5"),
    marked(
        "autoround: {layer} would have 8 bits and a zero-point, which auto-round does not tune; "
        "use symmetric=true, or rtn"
    ),
    marked("{step} after {other}: a model is quantized only once; leave one of the two out"),
    marked(
        '{step} after {other}: the weights are stored sparse; use {other_again}(storage="dense"), '
        "or leave {step_again} out"
    ),
    marked(
        "{name} quantizes by plain transformers, which cannot load MLPs of unequal width ({low} to "
        '{high}); prune with scope = "layer", or use rtn or gptq'
    ),
    marked("{what}: {runtime} cannot load it: {why}"),
    marked("MLPs of unequal width, which it does not build"),
    marked("MLPs of unequal width, which {reason}"),
    marked("its builder does not know"),
    marked("its libraries do not expect"),
    marked("MLPs of unequal width, which its model classes cannot build"),
    marked("MLPs of unequal width, which transformers cannot build"),
    marked('use scope = "layer", or equal_widths = true'),
    marked("the adapter beside the packed weights is not written into the file"),
    marked("the adapter beside the packed weights is not written into the graph"),
    marked("the adapter beside the packed weights is not loaded with the folder"),
    marked("tune before the quantization, so that the adapter is merged"),
    marked("{format} is none of its formats with the same numbers"),
    marked('use rtn, gptq or awq with grid = "affine"'),
    marked("there is no layer to quantize: `skip` leaves out all of them"),
    marked("{architecture}: {name} does not handle experts yet"),
    marked(
        "opened in {engine}, the model is not the one that was compressed: KL {kl} nats per token, "
        "where its arithmetic explains at most {bound}"
    ),
    # How something was measured.
    marked("the base itself"),
    marked("the base itself on {names}"),
    marked("the baseline itself"),
    marked("text {name}"),
    marked(
        "{text}; {count} windows of {length} tokens without overlap, {tokens} scored tokens; "
        "standard error over windows"
    ),
    marked("paired with the base token by token; {how}"),
    marked("median of {how}"),
    marked("90 % quantile of {how}"),
    marked("{count} repeats after a warm-up, batch 1, prompt {prompt}, decode {decode}, {machine}"),
    marked(
        "base and artifact in turns, {count} pairs after a warm-up, prompt {prompt}, {decode} "
        "tokens, {machine}; median of the ratios"
    ),
    marked("decode of {how}"),
    marked("prefill of {how}"),
    marked("{device}, {threads} threads, time.perf_counter"),
    marked("storages of the tensors that the loaded model holds: weights, scales, packed copies"),
    marked("peak resident memory of a fresh process that loads the model and serves prompts"),
    marked("peak allocated by torch on the GPU"),
    marked("peak resident memory of the process"),
    marked("{what} while loading, batch 1"),
    marked("{what} while reading a prompt of {count} tokens, batch 1"),
    marked("{what} while decoding {count} tokens behind it, batch 1"),
    marked("bytes of {what}"),
    marked("bytes of the stored tensors: {what}"),
    marked("matrices of the blocks, norms and biases"),
    marked("scales, zero points and shapes of packed matrices"),
    marked("token and position embeddings, and the output head"),
    marked("the .safetensors files, an adapter's included"),
    marked("the files of {engine}, its tokenizer included"),
    marked("weights files of the base over those of the artifact"),
    marked("weights of the blocks' matrices that are stored as codes or with a mask, over all"),
    marked("bits of the weights files over the parameters of the base"),
    marked("what a token of context adds to the cache, batch 1"),
    marked(
        "decode latency of the baseline over this one's, measured at different times: too little "
        "memory for both at once"
    ),
    marked("prompts of {count}"),
    marked("{decode} tokens after a prompt of {prompt}, repeated"),
    marked("{what}, batch 1, {count} windows of at least {seconds} s; {source}"),
    marked(
        "estimated by CodeCarbon {version}: power of the processor at full load times this "
        "process's share of its time, idle power and memory left out"
    ),
    marked("{estimate}; no counter was read: {why}"),
    marked("this processor shows no energy counter (RAPL)"),
    marked("exp(-KL) to the base's next-token probabilities on the text"),
    marked("share of the base's score that is kept on {names}, item by item"),
    marked("mean share of the base's score that is kept on {names}, item by item"),
    marked("mean change of the score against the base's on the same items"),
    marked(
        "KL(base, artifact) of the token after each item's prompt, over the likeliest tokens of "
        "each and all others together: at most the divergence over all tokens"
    ),
)
