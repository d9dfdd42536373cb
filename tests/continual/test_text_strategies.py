"""Strategies on texts: prompts for a language model, and a pretrained encoder that passes gradients."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from everlearn.continual.encoders import HFEncoder
from everlearn.continual.strategies.cms_encoder import CMSEncoder, ModuleLevels
from everlearn.continual.strategies.in_context import InContext, LabelScorer
from everlearn.continual.strategies.text_module import TextModule, last_mlps
from everlearn.levels.clock import Level
from everlearn.memory.precision import PrecisionMemory

TEXTS = ["red apple", "green apple", "fast red car", "slow car", "blue car", "sweet green pear"]
NAMES = ["fruit", "some vehicle"]
LABELS = torch.tensor([0, 0, 1, 1, 1, 0])
FEATURES = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0], [0.2, 1.0], [1.0, 0.3]])


def read(rows):
    return [TEXTS[row] for row in rows.tolist()]


def tokenizer():
    words = sorted({word for text in [*TEXTS, *NAMES, "Text : Label \n"] for word in text.split(" ")})
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *words])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]", pad_token="[PAD]")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found, words = {}, tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        causal = GPT2Config(vocab_size=len(words), n_positions=64, n_embd=8, n_layer=1, n_head=2)
        bert = BertConfig(vocab_size=len(words), hidden_size=8, num_hidden_layers=3, num_attention_heads=2)
        bert.intermediate_size, bert.max_position_embeddings = 12, 32
        for name, model in (("causal", GPT2LMHeadModel(causal)), ("encoder", BertModel(bert))):
            # untrained models of this size answer alike to everything; ten times the weights do not
            for parameter in model.parameters():
                parameter.data *= 10 if parameter.ndim == 2 else 1
            found[name] = tmp_path_factory.mktemp(name)
            model.save_pretrained(found[name])
            words.save_pretrained(found[name])
    return found


def test_a_label_scores_the_mean_log_probability_of_its_tokens(folders):
    """Against the literal formula: every prefix of prompt and label is read alone."""
    scorer = LabelScorer.from_pretrained(folders["causal"])
    prompt, words = "Text : red car \n Label :", tokenizer()
    labels = [" fruit", " some vehicle", " car"]
    expected = []
    for label in labels:
        ids, total = words(prompt)["input_ids"], 0.0
        ending = words(label)["input_ids"]
        for token in ending:
            logits = scorer.model(torch.tensor([ids])).logits[0, -1].detach()
            total += float(logits.log_softmax(0)[token])
            ids = [*ids, token]
        expected.append(total / len(ending))
    torch.testing.assert_close(scorer(prompt, labels), torch.tensor(expected), rtol=1e-4, atol=1e-5)
    assert len(set(expected)) == 3


def in_context(folders, k=3, max_tokens=64):
    scorer = LabelScorer.from_pretrained(folders["causal"], max_tokens=max_tokens)
    strategy = InContext(lambda rows: FEATURES[rows], read, NAMES, scorer, k=k)
    for rows in (torch.tensor([0, 2]), torch.tensor([3, 1, 4])):
        strategy.observe(rows, LABELS[rows])
    return strategy


def test_a_prompt_shows_the_nearest_examples_the_nearest_last(folders):
    # stored in the order 0 2 3 1 4; to row 5 the nearest are 1 (at .2) and 0 (at .3)
    strategy = in_context(folders, k=2)
    prompt = strategy.prompt(TEXTS[5], [3, 0])
    expected = "Text: red apple\nLabel: fruit\n\nText: green apple\nLabel: fruit\n\nText: sweet green pear\nLabel:"
    assert prompt == expected
    assert strategy.predict(torch.tensor([5])).tolist() == [0]


def test_the_answer_is_the_best_scored_label_among_the_examples(folders):
    strategy = in_context(folders, k=5)
    # all five: to row 4 the nearest are 4, 3, 2, then the two apples
    prompt = strategy.prompt(TEXTS[4], [4, 2, 1, 3, 0])
    scores = strategy.score(prompt, [" some vehicle", " fruit"])
    assert strategy.predict(torch.tensor([4])).tolist() == [[1, 0][int(scores.argmax())]]
    assert prompt.count("Label: some vehicle") == 3 and prompt.endswith("Text: blue car\nLabel:")


def test_a_prompt_that_is_too_long_loses_its_farthest_examples(folders):
    short = in_context(folders, k=5, max_tokens=24)
    prompt = short.prompt(TEXTS[4], [4, 2, 1, 3, 0])
    assert prompt.startswith("Text: slow car") and prompt.count("Label:") == 3
    assert short.score.length(prompt) + 2 <= 24
    assert short.score("red " * 50, [" fruit"]).isfinite().all()


def test_in_context_stores_texts_features_and_labels(folders):
    strategy = in_context(folders)
    assert strategy.stores_bytes() == sum(map(len, TEXTS[:5])) + 5 * 2 * 4 + 5 * 8
    before = strategy.stores_bytes()
    strategy.predict(torch.tensor([5, 5]))
    assert strategy.stores_bytes() == before and strategy.stores_images


def test_a_text_module_is_the_encoder_and_passes_gradients(folders):
    module = TextModule(folders["encoder"], read)
    rows = torch.arange(len(TEXTS))
    # padding changes rounding alone
    torch.testing.assert_close(module(rows).detach(), HFEncoder(folders["encoder"])(TEXTS), rtol=1e-4, atol=1e-5)
    module(rows)[:, ::3].sum().backward()
    assert all(module.get_parameter(name).grad.abs().sum() > 0 for names in last_mlps(module, 2) for name in names)


def test_last_mlps_are_the_two_matrices_of_each_block_the_last_block_first(folders):
    module = TextModule(folders["encoder"], read)
    assert last_mlps(module, 2) == [
        [f"model.encoder.layer.{i}.{part}.dense.weight" for part in ("intermediate", "output")] for i in (2, 1)
    ]
    for count in (0, 4):
        with pytest.raises(ValueError, match=rf"3 blocks whose MLPs are known by name, and {count} were asked"):
            last_mlps(module, count)


def test_levels_move_the_last_blocks_of_a_pretrained_encoder_and_nothing_else(folders):
    module = TextModule(folders["encoder"], read)
    fast, slow = last_mlps(module, 2)
    levels = (Level("fast", 2, 0.1), Level("slow", 4, 0.1))
    stacked = ModuleLevels(module, {"fast": fast, "slow": slow}, levels, chunk_size=2)
    strategy = CMSEncoder(stacked, module.dim, 2, PrecisionMemory(module.dim), readout_lr=0.1)
    start = strategy.levels(torch.arange(6), strategy.state).detach()
    for rows in torch.tensor([0, 2, 1, 3, 5, 4]).split(2):
        strategy.observe(rows, LABELS[rows])
    assert not torch.equal(strategy.levels(torch.arange(6), strategy.state), start)
    assert set(strategy.predict(torch.arange(6)).tolist()) <= {0, 1}
    torch.testing.assert_close(TextModule(folders["encoder"], read)(torch.arange(6)), start.requires_grad_(False))
