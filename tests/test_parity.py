"""`QuReModel` against salesforce-lavis with the same random weights: METHOD section 4, measured.

The largest difference seen in states, embeddings, loss and gradients is 3e-6 in float32 and 6e-15
in float64. TOLERANCE leaves room for other CPUs; a wrong joint path is off by more than 1.
"""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
import transformers.modeling_utils
from lavis_reference import LavisCaptionProcessor, LavisQuRe, to_qure_names
from torch import Tensor

from qure_lib.data import clean_caption
from qure_lib.losses import bradley_terry_loss
from qure_lib.model import ModelConfig, QuReModel, paired_scores, relevance_scores

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
B, P, C, L, VOCAB = 4, 5, 24, 7, 50


@dataclass(frozen=True)
class Case:
    """Both models with one set of weights, and a batch: 3 of its 4 captions are padded."""

    ours: QuReModel
    lavis: LavisQuRe
    reference: Tensor  # (B, P, C) frozen features of the reference images
    positive: Tensor  # (B, P, C) of the targets
    negative: Tensor  # (B, P, C) of a hard negative each
    ids: Tensor  # (B, L)
    mask: Tensor  # (B, L)
    tolerance: float

    @property
    def query(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.reference, self.ids, self.mask

    def close(self, ours: Tensor, lavis: Tensor) -> None:
        torch.testing.assert_close(ours, lavis, rtol=self.tolerance, atol=self.tolerance)


def make_case(num_tokens: int = 4, dtype: torch.dtype = torch.float64) -> Case:
    config = ModelConfig(
        image_size=16,
        patch_size=8,
        vision_width=C,
        vision_layers=1,
        vision_heads=2,
        qformer_width=32,
        qformer_layers=4,
        qformer_heads=4,
        num_query_tokens=num_tokens,
        embedding_dim=16,
        vocab_size=VOCAB,
    )
    lavis = LavisQuRe(config).randomise(seed=num_tokens)
    ours = QuReModel(config)
    ours.load_state_dict(to_qure_names(lavis.state_dict()), strict=False)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, B, P, C, generator=generator, dtype=torch.float64).to(dtype)
    ids = torch.randint(1, VOCAB, (B, L), generator=generator)
    mask = (torch.arange(L) < torch.tensor([[L], [5], [2], [3]])).long()
    models = ours.to(dtype).eval(), lavis.to(dtype).eval()  # eval: no dropout
    return Case(*models, *images, ids * mask, mask, TOLERANCE[dtype])


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(params=[1, 4, 9], ids="T={}".format)
def case(request: pytest.FixtureRequest, dtype: torch.dtype) -> Case:
    return make_case(request.param, dtype)


def last_hidden_state(model: QuReModel, encode: Callable, *inputs: Tensor) -> Tensor:
    """What the Q-Former gave while `encode` ran."""
    seen = []
    hook = model.qformer.register_forward_hook(lambda *call: seen.append(call[-1]))
    encode(*inputs)
    hook.remove()
    (output,) = seen
    return output.last_hidden_state


# --- the weights ---------------------------------------------------------------------------------


def test_every_trained_parameter_is_mapped_and_none_is_left_over():
    case = make_case()
    mapped = to_qure_names(dict(case.lavis.named_parameters()))
    trained = case.ours.trainable_parameters()
    assert {n: p.shape for n, p in mapped.items()} == {n: p.shape for n, p in trained.items()}


def test_the_random_weights_would_show_a_wrong_path():
    for name, parameter in make_case().ours.trainable_parameters().items():
        assert parameter.numel() == 1 or parameter.std() > 0.1, name


# --- the three paths -----------------------------------------------------------------------------


def test_image_only_path(case: Case):
    state = last_hidden_state(case.ours, case.ours.encode_image, case.positive)
    case.close(state, case.lavis.image_only(case.positive))


def test_joint_path(case: Case):
    state = last_hidden_state(case.ours, case.ours.encode_query, *case.query)
    case.close(state, case.lavis.joint(*case.query))


def test_text_only_path(case: Case):
    state = last_hidden_state(case.ours, case.ours.encode_text, case.ids, case.mask)
    case.close(state, case.lavis.text_only(case.ids, case.mask))


# --- embeddings, scores, loss, gradients ---------------------------------------------------------


def test_embeddings(case: Case):
    case.close(case.ours.encode_image(case.positive), case.lavis.image_embedding(case.positive))
    case.close(case.ours.encode_query(*case.query), case.lavis.query_embedding(*case.query))
    text = case.ids, case.mask
    case.close(case.ours.encode_text(*text), case.lavis.text_embedding(*text))


def test_relevance_scores(case: Case):
    corpus = torch.cat([case.positive, case.negative, case.reference])
    ours = relevance_scores(case.ours.encode_query(*case.query), case.ours.encode_image(corpus))
    lavis = case.lavis.scores(
        case.lavis.query_embedding(*case.query), case.lavis.image_embedding(corpus)
    )
    assert ours.shape == (B, 3 * B)
    case.close(ours, lavis)


def our_loss(case: Case) -> Tensor:
    queries = case.ours.encode_query(*case.query)
    positive = paired_scores(queries, case.ours.encode_image(case.positive))
    negative = paired_scores(queries, case.ours.encode_image(case.negative))
    return bradley_terry_loss(positive, negative, case.ours.temperature)


def lavis_loss(case: Case) -> Tensor:
    """The release's form, KL([1, 0] || softmax), on LAVIS's own scores."""
    queries = case.lavis.query_embedding(*case.query)
    positive, negative = (
        case.lavis.scores(queries, case.lavis.image_embedding(images)).diagonal()
        for images in (case.positive, case.negative)
    )
    return case.lavis.kl_loss(positive, negative)


def test_loss_equals_the_kl_form(case: Case):
    case.close(our_loss(case), lavis_loss(case))


def test_gradients_of_every_parameter(case: Case):
    our_loss(case).backward()
    lavis_loss(case).backward()
    expected = to_qure_names({n: p.grad for n, p in case.lavis.named_parameters()})
    unmoved = set()
    for name, parameter in case.ours.trainable_parameters().items():
        case.close(parameter.grad, expected[name])
        if not parameter.grad.any():
            unmoved.add(name)
    # The caption's outputs of the last layer are dropped, so its text branch alone learns nothing.
    assert unmoved == {n for n in expected if ".layer.3.intermediate." in n or ".3.output." in n}


def test_gradients_of_the_text_only_path(case: Case):
    direction = torch.linspace(-1, 1, 16).to(case.positive)
    (case.ours.encode_text(case.ids, case.mask) @ direction).sum().backward()
    (case.lavis.text_embedding(case.ids, case.mask) @ direction).sum().backward()
    expected = to_qure_names({n: p.grad for n, p in case.lavis.named_parameters()})
    for name, parameter in case.ours.trainable_parameters().items():
        if parameter.grad is None:
            assert expected[name] is None, name
        else:
            case.close(parameter.grad, expected[name])


# --- padding -------------------------------------------------------------------------------------


def test_padding_has_no_effect(case: Case):
    other_ids = torch.where(case.mask.bool(), case.ids, 7)
    longer = [F.pad(x, (0, 25)) for x in (case.ids, case.mask)]
    for ids, mask in ((other_ids, case.mask), longer):
        case.close(
            case.ours.encode_query(case.reference, ids, mask), case.ours.encode_query(*case.query)
        )
        case.close(case.ours.encode_text(ids, mask), case.ours.encode_text(case.ids, case.mask))


def test_every_caption_token_has_an_effect():
    case = make_case()
    before = case.ours.encode_query(*case.query)
    for row, position in case.mask.nonzero().tolist():
        ids = case.ids.clone()
        ids[row, position] = ids[row, position] % (VOCAB - 1) + 1
        after = case.ours.encode_query(case.reference, ids, case.mask)
        assert (after - before)[row].abs().max() > 1e-4


# --- the comparison can fail ---------------------------------------------------------------------


@pytest.mark.parametrize("mistake", ["no mask", "no query length"])
def test_a_wrong_joint_path_is_far_off(mistake: str):
    case = make_case()
    tokens = case.ours.query_tokens.expand(B, -1, -1)
    mask = torch.cat([case.mask.new_ones(B, tokens.shape[1]), case.mask], dim=1)
    wrong = case.ours.qformer(
        query_embeds=case.ours.embeddings(input_ids=case.ids, query_embeds=tokens),
        query_length=None if mistake == "no query length" else tokens.shape[1],
        attention_mask=None if mistake == "no mask" else mask,
        encoder_hidden_states=case.ours.ln_vision(case.reference),
    ).last_hidden_state
    difference = (wrong - case.lavis.joint(*case.query))[:, : tokens.shape[1]].abs().max()
    assert difference > 0.05  # seen: 1.8 and 3.7


# --- caption cleaning, and what the reference leaves behind --------------------------------------

CAPTIONS = [
    "Is Pink colored; and has a V-neck.",
    '  has "short" sleeves!!  (not long) ',
    "a*b#c:d;e~f.g!h",
    "tabs\tand\nnew\r\nlines \n\n here\n",
    "keeps commas, questions? and 'quotes' & signs",
    "ÉTÉ İstanbul ẞ\u00a0\u00a0non-breaking \u2003 spaces",
    "...",
    "",
    " ".join(f"Word{i}" for i in range(49)),
    " ".join(f"Word{i}" for i in range(50)) + ".",
    " ".join(f"Word{i}." for i in range(51)),
    "\n leads with a line and ends with many \n\n\n",
]


@pytest.mark.parametrize("caption", CAPTIONS)
def test_caption_cleaning(caption: str):
    assert clean_caption(caption) == LavisCaptionProcessor()(caption)


def test_no_stand_in_outlives_the_import():
    for name in {"lavis", "torchvision"} & sys.modules.keys():
        assert importlib.util.find_spec(name) is not None  # raises for a stand-in
    assert not hasattr(transformers.modeling_utils, "find_pruneable_heads_and_indices")
