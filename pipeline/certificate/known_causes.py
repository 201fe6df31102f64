"""Known causes of failed checks: the signature of a failure -> its cause and a remedy, as shown to users."""

from __future__ import annotations

_CAUSES = {
    "tokens_missing": (
        "The file was converted before tokens were added, or from another model's folder: convert it again "
        "with the tuned model's tokenizer."
    ),
    "token_swapped": (
        "The vocabulary is another one, or tokens were renumbered after training: convert with the "
        "tokenizer that was saved with the adapter."
    ),
    "token_type": (
        "The converter took a special token for a plain one, so that it falls to pieces: mark it as special"
        " in tokenizer_config.json, and convert again."
    ),
    "bos_differs": (
        "Tokenizer and GGUF disagree about the BOS: set add_bos_token in tokenizer_config.json as it was in"
        " training, and convert again."
    ),
    "eos_differs": (
        "Another end token was written, often the base's beside a tuned chat template: set eos_token in "
        "tokenizer_config.json, and convert again."
    ),
    "add_bos": (
        "tokenizer_config.json does not say add_bos_token, or the converter has a rule of its own for "
        "models of this size; it matters to plain completions alone."
    ),
    "text_differs": (
        "The pre-tokenizer or the merges are another model's: convert with a llama.cpp that knows this "
        "tokenizer, from the folder of the tuned model."
    ),
    "space_differs": (
        "SentencePiece puts a space before a text, and transformers and llama.cpp do not agree on where "
        "texts begin (after a special token, or with white space): models put up with it, and nothing is to "
        "be done here."
    ),
    "rare_text_differs": (
        "llama.cpp does without a normalizer (NFC, NFKC) or treats control characters otherwise; it shows "
        "only where such characters are typed."
    ),
    "template_missing": (
        "The GGUF carries no template that renders: convert again with --template FILE|NAME, or with "
        "chat_template.jinja in the adapter's or the base's folder."
    ),
    "template_loses": (
        "A model is asked without the words that are missing from its prompt: convert again with "
        "--template FILE|NAME."
    ),
    "template_differs": (
        "The template was edited or lost white space on its way (a shell, YAML and some editors strip "
        "newlines): take it from the tuned model's folder, byte for byte."
    ),
    "bos_twice": (
        "The template writes a BOS and so does something else: keep one of them, in the template or in "
        "add_bos_token."
    ),
    "no_turn_end": "Add an end token to the template's assistant turns, and train with it.",
    "end_lost": (
        "The GGUF does not know this token as an end: name it as eos_token in tokenizer_config.json, or as "
        "eos_token_id in generation_config.json, and convert again."
    ),
    "settings": (
        "config.json was edited after training, or is another revision's: take that of the base that the "
        "adapter was trained on."
    ),
    "rope": (
        "Positions are computed otherwise than in training, which long prompts show first: take "
        "rope_parameters from the base's config.json, and convert again."
    ),
    "delta_missing": (
        "The adapter's change is not in these tensors: they were not merged, which happens to layers whose "
        "names the merge did not match."
    ),
    "delta_scaled": "The adapter's change is there, but not at its trained size.",
    "delta_too_fine": (
        "The adapter's changes are smaller than the steps of the file's numbers, which round them away: "
        "export with --outtype f32, or train for longer."
    ),
    "rslora": (
        "An rsLoRA adapter was merged at LoRA's scale (alpha / r in place of alpha / sqrt(r)): merge it "
        "with PEFT, or a tool that reads use_rslora."
    ),
    "lora_as_rslora": "A LoRA adapter was merged at rsLoRA's scale (alpha / sqrt(r)): merge it with PEFT.",
    "merged_twice": "The adapter was merged into a base that had it already.",
    "zeroed": "A tensor is nothing but zeros: the file was damaged or cut short; make it anew.",
    "not_finite": "Numbers are infinite or not a number: f16 ends at 65504; export with --outtype bf16.",
    "permutation": (
        "The rows of q and k are in another order than llama.cpp's rope wants: the converter left its "
        "permutation out, or made it twice."
    ),
    "transposed": "A matrix is transposed.",
    "norm_shift": "This architecture's norms are stored less one, and the converter did not add it.",
    "other_base": (
        "Tensors that no adapter touches differ as well: the file was made of another base or revision."
    ),
    "tensor_missing": (
        "The converter left tensors out: convert with a llama.cpp that knows this architecture."
    ),
    "head_missing": (
        "The output matrix is tied to the embeddings in the GGUF, and the model has one of its own: set "
        "tie_word_embeddings to false in config.json, and convert again."
    ),
    "head_untied": "The GGUF has an output matrix of its own, and the model's is tied to the embeddings.",
    "shape": (
        "Tensors have another shape than the model's: the file was made of another model, or of a base "
        "with another vocabulary."
    ),
    "damaged": "These tensors hold other numbers, by no rule that is known: make the file anew.",
    "logits": (
        "Each tensor may be right and the model still another: look at the settings (rope, norms, "
        "activation) and at llama.cpp's support of this architecture."
    ),
    "no_end": (
        "Answers do not end: the end token is not an end to the GGUF (see template.end), or the tuning "
        "never saw one."
    ),
    "leak": (
        "Special tokens come as text: the template's spellings are no tokens of the GGUF (see "
        "tokenizer.added)."
    ),
    "loops": (
        "Answers run in circles: the prompt is not the trained one (see template.text), or rounding hurt "
        "the model: try a larger type."
    ),
    "first_words": (
        "The model says other words from the start than transformers does: see weights and logits."
    ),
}


def find_cause(signature: str) -> str:
    """Return the cause and remedy of a signature."""
    return _CAUSES[signature]
