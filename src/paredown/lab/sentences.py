"""What a report of the lab says: its sentences by name, for names that follow from the case.

They are English, as all sentences of the source are, and said in the language of whoever reads
them. Names of strategies, measurements and commands are the same in every language and come as
values.
"""

from __future__ import annotations

from typing import final

from paredown.language import Language, marked, say, speaking


@final
class Words:
    """The sentences in one language."""

    def __init__(self, language: Language) -> None:
        self.language = language

    def __call__(self, name: str, **values: object) -> str:
        """A sentence with its values filled in.

        Raises:
            KeyError: there is no such sentence, or it has a value that is not given.
        """
        with speaking(self.language):
            return say(SENTENCES[name], **values)

    def has(self, name: str) -> bool:
        """Whether there is such a sentence."""
        return name in SENTENCES


SENTENCES: dict[str, str] = {
    "title": marked("Engineering report: {model}"),
    "made": marked(
        "Made {when} with paredown {version} on {machine}; deployment target: {target}."
    ),
    "known": marked(
        "Sizes are those of files. What is called estimated was not measured; every other "
        "number was measured here, and ± and intervals are of 95 %."
    ),
    "head_summary": marked("Summary"),
    "head_model": marked("The model"),
    "head_hardware": marked("Hardware"),
    "head_strategy": marked("Strategy"),
    "head_effect": marked("Measured effect"),
    "head_functional": marked("Functional tests"),
    "head_deployment": marked("Preparation of the deployment"),
    "head_recommendation": marked("Recommendation"),
    "head_risks": marked("Risks"),
    "head_monitor": marked("What to monitor"),
    "head_next": marked("How to go on"),
    "verdict_deploy": marked(
        "Deploy it: {strategy} meets what was asked, answers as it should, and its package is "
        "ready."
    ),
    "verdict_pilot": marked(
        "Try it in a pilot first: {strategy} is not shown to fail anything, but something is "
        "still open."
    ),
    "verdict_hold": marked("Do not deploy {strategy} as it is: it fails something that was asked."),
    "verdict_keep": marked(
        "Deploy the uncompressed model: no strategy that was carried out is better within the "
        "constraints."
    ),
    "verdict_nothing": marked(
        "There is nothing to deploy: nothing that was measured meets the constraints."
    ),
    "col_fact": marked("fact"),
    "col_value": marked("value"),
    "col_constraint": marked("constraint"),
    "col_asked": marked("asked"),
    "col_seen": marked("measured"),
    "col_state": marked("verdict"),
    "col_version": marked("version"),
    "col_size": marked("size"),
    "col_devices": marked("devices"),
    "col_engine": marked("engine"),
    "col_memory": marked("memory"),
    "col_first_token": marked("first token"),
    "col_per_token": marked("per token"),
    "col_rent": marked("rent per hour"),
    "col_fits": marked("fits"),
    "col_strategy": marked("strategy"),
    "col_ratio": marked("times smaller"),
    "col_speedup": marked("times as fast"),
    "col_quality_text": marked("perplexity over the base's"),
    "col_known_from": marked("known from"),
    "col_constraints": marked("constraints"),
    "col_loss": marked("loss of quality"),
    "col_kl": marked("KL, nats/token"),
    "col_tokens_changed": marked("next tokens changed"),
    "col_decode": marked("ms/token"),
    "col_expected": marked("expected"),
    "col_measured": marked("measured"),
    "col_quantity": marked("quantity"),
    "col_message": marked("message"),
    "col_base": marked("base"),
    "col_artifact": marked("compressed"),
    "col_package": marked("package"),
    "col_of_base": marked("over the base's"),
    "col_look": marked("look"),
    "col_outcome": marked("outcome"),
    "col_what": marked("what"),
    "col_how": marked("how"),
    "col_usual": marked("usual"),
    "col_alarm": marked("look into it at"),
    "state_met": marked("met"),
    "state_broken": marked("broken"),
    "state_undecided": marked("open"),
    "constraint_max_memory_gb": marked("peak memory"),
    "constraint_max_accuracy_loss": marked("loss of quality"),
    "constraint_min_speedup": marked("speed-up"),
    "constraint_target_ratio": marked("times smaller"),
    "constraint_max_energy": marked("energy per token"),
    "constraint_deployment_target": marked("deployment target"),
    "at_most": marked("at most {value}"),
    "at_least": marked("at least {value}"),
    "not_measured": marked("not measured"),
    "unknown": marked("unknown"),
    "fits_yes": marked("yes"),
    "fits_no": marked("no"),
    "base": marked("uncompressed"),
    "no_constraints": marked("No constraint was set, so none is judged."),
    "target_held": marked("measured in {runtime}"),
    "fact_name": marked("name"),
    "fact_architecture": marked("architecture"),
    "fact_parameters": marked("parameters"),
    "fact_active": marked("of these used per token"),
    "fact_layers": marked("layers"),
    "fact_width": marked("width"),
    "fact_heads": marked("heads (of keys and values)"),
    "fact_vocabulary": marked("vocabulary"),
    "fact_context": marked("context, tokens"),
    "fact_dtype": marked("stored as"),
    "fact_size": marked("size of the weights"),
    "fact_cache": marked("keys and values per token"),
    "fact_hash": marked("SHA-256 of the weights"),
    "facts_unknown": marked("Neither config nor headers tell: {facts}."),
    "hardware_asked": marked(
        "For {work} tokens (batch x context), by version: the three cheapest places of the "
        "catalogue, and the target where one is named (marked *). All of it is estimated from "
        "nominal figures."
    ),
    "hardware_here": marked(
        "On this machine ({cpu}, {cores} processors, {memory} of memory), estimated:"
    ),
    "hardware_none": marked("No device of the catalogue does it with this engine."),
    "price_date": marked("{price} ({date})"),
    "strategy_how": marked(
        "Predicted before anything ran: sizes exactly, memory and speed from the time model of "
        "this machine, quality from what the same strategy did to other models. The interval "
        "is where 95 of 100 such strategies are expected."
    ),
    "strategy_chosen": marked("Carried out: {strategies}."),
    "strategy_favourite": marked(
        "By prediction alone the choice was {strategy}; its neighbours in size were carried "
        "out as well, because a prediction is an interval."
    ),
    "strategy_no_favourite": marked("By prediction alone no choice could be made."),
    "strategy_refused": marked("Cannot run: {strategy}: {reason}"),
    "effect_chosen": marked("What goes on to deployment: {strategy}."),
    "effect_reason": marked("The judge's reason, as recorded: {reason}."),
    "effect_failed": marked("Came to nothing: {strategy}: {reason}"),
    "effect_predicted": marked("Expected against measured, of what goes on:"),
    "quantity_size": marked("size"),
    "quantity_memory": marked("peak memory"),
    "quantity_speedup": marked("speed-up"),
    "quantity_quality": marked("perplexity over the base's"),
    "functional_how": marked(
        "Base and compressed model were asked the same in {runtime}, greedily, {tokens} tokens "
        "at most, one after the other; speed counts the time from the message to the end of "
        "the answer."
    ),
    "functional_chat": marked("Messages were put into the model's chat template."),
    "functional_plain": marked("The model has no chat template; messages were given as they are."),
    "functional_speed": marked(
        "Median over the messages: {base} tokens/s before, {artifact} tokens/s after."
    ),
    "functional_none": marked("Only the base was asked: nothing else goes on."),
    "functional_faults": marked(
        "{faults} of {count} answers are blank or repeat themselves where the base's do not."
    ),
    "answer": marked("{text} ({speed} tokens/s)"),
    "fault_blank": marked("blank"),
    "fault_repeats": marked("repeats itself"),
    "deployment_package": marked("Package: {package}, {size}, for {runtime}, version {version}."),
    "deployment_folder": marked(
        "{runtime} reads the artifact's own folder: {package}, {size}. Nothing else had to be "
        "made, and nothing was served here."
    ),
    "deployment_exact": marked(
        "The package holds exactly the artifact's numbers; its engine answers as the artifact "
        "does in torch up to a KL of {kl} nats per token."
    ),
    "deployment_serving": marked(
        "Served: {slots} requests at once of {context} tokens each, {threads} threads, at most "
        "{memory}; {peak} were used."
    ),
    "deployment_pairs": marked("Its server beside the base's, in turns:"),
    "deployment_ready": marked(
        "Readiness: {passed} looks passed, {failed} failed, {rest} do not apply."
    ),
    "deployment_nothing": marked("Nothing goes on, so no package was made."),
    "fact_passed": marked("passed"),
    "fact_failed": marked("FAILED"),
    "reason_limit_met": marked("{constraint}: {seen}, asked {asked}: met."),
    "reason_limit_broken": marked("{constraint}: {seen}, asked {asked}: broken."),
    "reason_limit_open": marked(
        "{constraint}: {seen}, asked {asked}: the interval crosses the limit, or nothing was "
        "measured."
    ),
    "reason_answers_good": marked("All {count} functional answers are as sound as the base's."),
    "reason_answers_few": marked(
        "{faults} of {count} functional answers are unsound where the base's are not: read them."
    ),
    "reason_answers_many": marked(
        "{faults} of {count} functional answers are unsound where the base's are not."
    ),
    "reason_ready": marked("The package was served here: every look at its readiness passed."),
    "reason_not_ready": marked("Readiness failed: {name}: {seen}"),
    "reason_not_served": marked(
        "{runtime} has no server here: answers under load, overload and restart were not looked at."
    ),
    "reason_other_device": marked("{device} was not at hand: what runs there is estimated."),
    "reason_no_constraints": marked(
        "No constraint was set; whether the loss is acceptable, nobody has said."
    ),
    "reason_nothing_met": marked("No result is shown to meet the constraints. {reason}."),
    "reason_base_best": marked("{reason}."),
    "risk_text_only": marked(
        "Quality was measured on text alone ({data}); what users ask may suffer more. Name "
        "benchmarks or questions of your own (data: [FILE.jsonl])."
    ),
    "risk_flips": marked(
        "{share} of 100 next tokens are others than the base's: answers will differ from those "
        "users know, even where the score is the same."
    ),
    "risk_kl": marked("The divergence from the base is {kl} nats per token."),
    "risk_few_prompts": marked(
        "{count} functional messages are few: a fault in one of {count} answers would be seen "
        "by chance only."
    ),
    "risk_open": marked("{constraint} is open: measure on more (evaluate.tokens, evaluate.limit)."),
    "risk_other_device": marked(
        "Times and memory on {device} are estimated from nominal figures, within a factor of 2."
    ),
    "risk_machine": marked(
        "Times hold for {cpu} with {cores} processors; on another machine measure again."
    ),
    "risk_calibration": marked(
        "The strategy was calibrated on {data}; text of another kind or language may lose more."
    ),
    "risk_documented": marked(
        "{runtime} reads the format by its documentation; it was not run here."
    ),
    "risk_noise": marked(
        "The loss of quality is within its error: the model may be better or worse than it looks."
    ),
    "risk_none": marked("None beyond those of any model was found."),
    "monitor_latency": marked("time per output token"),
    "monitor_latency_how": marked("p50 and p99 of the server, in production"),
    "monitor_first": marked("time to the first token"),
    "monitor_memory": marked("memory of the server"),
    "monitor_memory_how": marked("resident memory of its process"),
    "monitor_drift": marked("answers to the golden prompts"),
    "monitor_drift_usual": marked("as in proof.json"),
    "monitor_drift_alarm": marked("a look that fails"),
    "monitor_faults": marked("answers that are blank or repeat themselves"),
    "monitor_faults_how": marked("share of all answers, a day"),
    "monitor_quality": marked("quality"),
    "monitor_quality_how": marked("after every change of model, engine or machine"),
    "monitor_errors": marked("refused and failed requests"),
    "monitor_errors_how": marked("share of all requests, an hour"),
    "monitor_twice": marked("twice as much"),
    "monitor_any": marked("any"),
    "next_serve": marked("Serve it: {command}"),
    "next_check": marked("Is it ready: {command}"),
    "next_bench": marked("How much it carries: {command}"),
    "next_again": marked(
        "After a change in the file or in a checkpoint: {command} (only what depends on it is "
        "done again)."
    ),
    "next_edit": marked(
        "Other strategies: edit `chosen` in 2-design.json. Another result: edit `episode` in "
        "3-implementation.json."
    ),
}

BUILT_IN_PROMPTS: tuple[str, ...] = (
    "What is the capital of France, and what is it known for?",
    "Write a short email that moves a meeting from Monday to Wednesday.",
    "請用三句話介紹台北。",
    "請解釋什麼是光合作用。",
    "请用三句话介绍北京。",
    "请把“今天天气很好，我们去公园散步吧。”翻译成英文。",
    "東京について三文で紹介してください。",
    "光合成とは何か、簡単に説明してください。",
)
"""What base and artifact are asked where the user names nothing, in every language."""
