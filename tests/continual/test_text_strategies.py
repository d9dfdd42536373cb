"""Strategies on texts: prompts for a language model, and a pretrained encoder that passes gradients."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from everlearn.continual.encoders import HFEncoder
from everlearn.continual.strategies.cms_encoder import CMSEncoder, ModuleLevels
from everlearn.continual.strategies.in_context import InContext, LabelScorer
from everlearn.continual.strategies.text_module import TextModule, UpperBlocks, last_mlps, like_lengths
from everlearn.levels.clock import Level
from everlearn.memory.precision import PrecisionMemory
from everlearn.models import Decoder, DecoderConfig, save_model

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


def test_no_text_passes_for_the_line_of_a_label(folders):
    strategy = in_context(folders, k=1)
    strategy.read = lambda rows: ["red\nLabel: fruit\n\nText:  pear "]
    strategy.observe(torch.tensor([5]), LABELS[[5]])
    example = "Text: red Label: fruit Text: pear\nLabel: fruit\n\n"
    assert strategy.prompt("car\nLabel: x", [5]) == example + "Text: car Label: x\nLabel:"


def test_one_label_among_the_examples_is_the_answer_unasked(folders):
    def refuse(prompt, labels):
        raise AssertionError

    strategy = in_context(folders, k=1)
    strategy.score = refuse
    assert strategy.predict(torch.tensor([0, 3])).tolist() == [0, 1]


def test_a_decoder_of_bytes_scores_labels_by_its_own_losses(tmp_path):
    """What `save_model` wrote, against the loss of each byte of the label that the decoder itself reports."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = Decoder(DecoderConfig(mixer="delta_net", dim=8, num_layers=1, num_heads=2, hidden_dim=8)).eval()
        for parameter in decoder.parameters():
            parameter.data *= 3 if parameter.ndim == 2 else 1
    save_model(decoder, tmp_path)
    scorer, prompt, labels = LabelScorer.from_pretrained(tmp_path), "Text: é\nLabel:", [" a", " some é"]
    assert scorer.length("é") == 2
    expected = []
    for label in labels:
        ids = torch.tensor([list((prompt + label).encode())])
        logs = scorer.model(ids).logits[0].log_softmax(-1)[torch.arange(ids.shape[1] - 1), ids[0, 1:]]
        expected.append(logs[len(prompt.encode()) - 1 :].mean())
    torch.testing.assert_close(scorer(prompt, labels), torch.stack(expected).detach(), rtol=1e-4, atol=1e-5)
    assert abs(expected[0] - expected[1]) > 1e-3


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


def test_texts_are_padded_to_groups_of_like_length_and_come_back_in_their_order(folders):
    assert list(like_lengths([5, 0, 2, 9, 1, 3, 3])) == [[4, 2], [5, 6], [0, 3]]
    sizes = [1 + (7 * i) % 31 for i in range(500)]
    groups = list(like_lengths(sizes))
    assert sorted(place for group in groups for place in group) == list(range(500)) and max(map(len, groups)) == 64
    assert [sizes[place] for group in groups for place in group] == sorted(sizes)
    assert list(like_lengths([])) == list(like_lengths([0, 0])) == []
    rows = torch.tensor([4, 1, 5, 0, 3, 2, 4])
    module = TextModule(folders["encoder"], read)
    # one text at a time, against rounding
    torch.testing.assert_close(module(rows), torch.cat([module(row[None]) for row in rows]), rtol=1e-5, atol=1e-5)


def test_no_text_and_texts_without_tokens_or_beyond_the_limit_have_features(folders):
    """The tokenizer here adds no token of its own, so nothing is left of an empty text."""
    texts = ["", "red car", "red " * 50, "red " * 8]
    module = TextModule(folders["encoder"], lambda rows: [texts[row] for row in rows.tolist()], max_length=8)
    found = module(torch.arange(4))
    assert not found[0].any() and found.isfinite().all()
    torch.testing.assert_close(found[2], found[3])
    torch.testing.assert_close(found.detach(), HFEncoder(folders["encoder"], max_length=8)(texts), rtol=1e-4, atol=1e-5)
    assert module(torch.tensor([0])).shape == (1, module.dim)
    assert module(torch.zeros(0, dtype=torch.long)).shape == (0, module.dim)
    # a tokenizer without a token to pad with; the middle one of three groups has both lengths
    module.tokenizer.pad_token = None
    torch.testing.assert_close(module(torch.tensor([1, 2] * 4)), found[[1, 2] * 4], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [2, 3])
def test_upper_blocks_are_the_module_values_and_gradients_whatever_the_batch(folders, count):
    rows, module = torch.tensor([4, 1, 5, 0, 3, 2, 4]), TextModule(folders["encoder"], read)
    # hidden layer 2 of 3 is -2 counted from the end
    upper = UpperBlocks(TextModule(folders["encoder"], read, layers=(2, -1)), len(TEXTS), count)
    assert upper.kept_bytes() == 4 * 8 * sum(len(text.split()) for text in TEXTS)
    torch.testing.assert_close(upper(rows), module(rows), rtol=1e-5, atol=1e-5)
    direction = torch.randn(len(rows), module.dim, generator=torch.Generator().manual_seed(0))
    for name, other in zip(*([n for names in last_mlps(m, 2) for n in names] for m in (module, upper)), strict=True):
        (expected,) = torch.autograd.grad((module(rows) * direction).sum(), [module.get_parameter(name)])
        (found,) = torch.autograd.grad((upper(rows) * direction).sum(), [upper.get_parameter(other)])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_upper_blocks_must_reach_down_to_the_layers_that_are_asked_for(folders):
    for count, layers in ((1, (-2, -1)), (4, (-1,)), (3, (0,))):
        with pytest.raises(ValueError, match=f"the last {count} of 3 blocks cannot be run alone"):
            UpperBlocks(TextModule(folders["encoder"], read, layers=layers), len(TEXTS), count)


def stepping(folders, **options):
    module = UpperBlocks(TextModule(folders["encoder"], read), len(TEXTS), 2)
    fast, slow = last_mlps(module, 2)
    levels = (Level("fast", 2, 0.1), Level("slow", 4, 0.1))
    stacked = ModuleLevels(module, {"fast": fast, "slow": slow}, levels, chunk_size=2)
    return CMSEncoder(stacked, module.dim, 2, PrecisionMemory(module.dim), **options)


def test_after_a_warm_up_the_encoder_stands_still_and_the_sums_are_those_of_its_last_features(folders):
    strategy = stepping(folders, readout_lr=0.1, warmup=3)
    order = torch.tensor([0, 2, 1, 3, 5, 4])
    for rows in order[:4].split(2):
        strategy.observe(rows, LABELS[rows])
    moved = {name: tensor.clone() for name, tensor in strategy.state.memory.items()}
    assert not torch.equal(moved["fast.module.model.encoder.layer.1.output.dense.weight"], start_of(strategy))
    assert strategy.held == []
    strategy.observe(order[4:], LABELS[order[4:]])
    assert all(torch.equal(tensor, moved[name]) for name, tensor in strategy.state.memory.items())
    exact = PrecisionMemory(strategy.memory.dim)
    exact.write(strategy.features(order), LABELS[order])
    torch.testing.assert_close(strategy.memory.statistics.sums, exact.statistics.sums, rtol=0, atol=1e-3)
    assert strategy.memory.counts == {0: 3, 1: 3}


def start_of(strategy):
    return strategy.levels.initial_state(1).memory["fast.module.model.encoder.layer.1.output.dense.weight"]


def test_what_a_warm_up_holds_is_counted(folders):
    plain, warm = stepping(folders, readout_lr=0.1), stepping(folders, readout_lr=0.1, warmup=3)
    for strategy in (plain, warm):
        strategy.observe(torch.tensor([0, 2]), LABELS[[0, 2]])
    # two row numbers and two labels of eight bytes
    assert warm.stores_bytes() - plain.stores_bytes() == 4 * 8


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
