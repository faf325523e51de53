"""How do I get a small model with a tokenizer into a folder, without downloading one?

    python make_model.py [FOLDER]

Trains a byte-level Llama of two layers for some seconds on Python's standard library and saves it with its tokenizer,
in the format in which models are downloaded: the command line takes the folder in place of a name.

It prints the loss before and after training, in nats a byte, and that the folder reads back as the same model.
"""

import sys
import sysconfig
import tempfile
from pathlib import Path

import tokenizers
import torch
import transformers


def byte_tokenizer():
    """Make every byte a token; its number is the place in the sorted alphabet, and the last one is padding."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = {one: number for number, one in enumerate([*alphabet, "<pad>"])}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=words, merges=[]))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>")


def main(folder):
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    text = "".join((Path(sysconfig.get_path("stdlib")) / f"{name}.py").read_text() for name in ("argparse", "typing"))
    ids = torch.tensor(tokenizer(text[: 64 * 1500])["input_ids"]).reshape(-1, 64)
    optimiser, losses = torch.optim.AdamW(model.parameters(), lr=5e-3), []
    for step in range(200):
        rows = ids[7 * step % (len(ids) - 8) :][:8]
        loss = model(input_ids=rows, labels=rows).loss
        losses.append(loss.item())
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    print(f"{losses[0]:.2f} nats a byte before training, {sum(losses[-10:]) / 10:.2f} after")

    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    read, words = (
        kind.from_pretrained(folder) for kind in (transformers.AutoModelForCausalLM, transformers.AutoTokenizer)
    )
    assert torch.equal(read(rows).logits, model.eval()(rows).logits)
    assert words.decode(words("naïve → ok")["input_ids"]) == "naïve → ok"
    print("the folder reads back as the same model and tokenizer:", sorted(path.name for path in folder.iterdir()))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path((sys.argv[1:] or [temporary])[0]))
