"""How do I measure answers alone, when samples are conversations?

    python chat_data.py

Give `labels`, unshifted as in transformers, with -100 where a token is not to be in the loss: on the user's part and on
the role markers. A tokenizer whose chat template marks what the assistant says finds these tokens itself:
`apply_chat_template(..., return_dict=True, return_assistant_tokens_mask=True)`, -100 where the mask is 0. Here roles
are marked by hand, and tokens are bytes. In the task files of the command line a "prompt" beside the "text" does the
same.

It prints what is in the loss of one sample, and how the strongest head differs when the prompts count too. The last
line is a law: the loss is a sum over tokens, so the gradient of everything is that of the prompts plus that of the
answers.
"""

import torch
import transformers

import qkov

IGNORED = -100


def conversations(one, count=12):
    """Ask what the methods of a class do; their docstrings answer."""
    names = [name for name in sorted(vars(one)) if not name.startswith("_")][:count]
    return [
        (f"<user>What does {one.__name__}.{name} do?<assistant>", getattr(one, name).__doc__[:60]) for name in names
    ]


def chat_batch(pairs, in_loss=("answer",)):
    """Pad conversations on the right; labels hold the parts that are in the loss."""
    length = max(len((prompt + answer).encode()) for prompt, answer in pairs)
    batch = {name: torch.zeros(len(pairs), length, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    batch["labels"] = torch.full((len(pairs), length), IGNORED)
    for row, parts in enumerate(pairs):
        prompt, answer = (list(part.encode()) for part in parts)
        tokens, end = torch.tensor(prompt + answer), len(prompt) + len(answer)
        batch["input_ids"][row, :end], batch["attention_mask"][row, :end] = tokens, 1
        for part, where in (("prompt", slice(0, len(prompt))), ("answer", slice(len(prompt), end))):
            if part in in_loss:
                batch["labels"][row, where] = tokens[where]
    return batch


def main():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=256, **sizes))
    texts, others = conversations(str), conversations(bytes)

    gradients = []
    for in_loss in (("answer",), ("prompt",), ("answer", "prompt")):
        collector = qkov.FisherCollector()
        collector.collect_fisher(model, chat_batch(texts, in_loss), "str")
        collector.collect_fisher(model, chat_batch(others, in_loss), "bytes")
        metric = qkov.QKOVInterferenceMetric(collector.config, collector, fisher_pool="pooled")
        top = metric.compute_heatmap("str", "bytes")["O"]["top_conflicts"][0]
        tokens = collector.sample("str", 0).num_tokens
        print(f"in the loss: {' and '.join(in_loss)}; {tokens} tokens of the first sample. Highest score", end=" ")
        print(f"{top['score']:.4g}, sample {top['sample_i']} with {top['sample_j']}, layer {top['layer']}")
        gradients.append(collector.get_sample_gradients("str", 0))
        assert in_loss != ("answer",) or tokens == len(texts[0][1].encode())

    answer, prompt, both = gradients
    for name in both:
        torch.testing.assert_close(answer[name] + prompt[name], both[name], rtol=1e-3, atol=1e-5)
    print("the gradient of everything is that of the prompts plus that of the answers")


if __name__ == "__main__":
    main()
