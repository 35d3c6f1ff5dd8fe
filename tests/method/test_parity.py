"""`QuReModel` against salesforce-lavis with the same random weights.

The weights go through a LAVIS checkpoint on disk and `load_pretrained`. The largest difference seen
in hidden states, features, embeddings, loss and gradients is 2e-5 in float32 (ViT-g's features,
which reach 21) and 4e-14 in float64. TOLERANCE leaves room for other CPUs; a wrong joint path is
off by more than 1.
"""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
import torch.nn.functional as F
import transformers.modeling_utils
from lavis_reference import VOCAB, LavisCaptionProcessor, LavisQuRe, tiny_config, to_qure_names
from torch import Tensor

from qure_lib.datasets.captions import clean_caption
from qure_lib.features.published_weights import load_pretrained
from qure_lib.method.losses import bradley_terry_loss
from qure_lib.method.model import QuReModel
from qure_lib.method.scores import paired_scores, relevance_scores

TOLERANCE = {torch.float32: 5e-5, torch.float64: 1e-12}
B, P, C, L = 4, 5, 128, 7
LR = 1e-3  # larger than the published 1e-5, so that a step stands out from float32's rounding
STEP_TOLERANCE = {torch.float32: 5e-3, torch.float64: 1e-6}  # in units of LR
SURE_GRADIENT = {torch.float32: 1e-5, torch.float64: -1.0}


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


def load_through_the_mapping(lavis: LavisQuRe) -> QuReModel:
    """As a LAVIS checkpoint on disk, and back."""
    with TemporaryDirectory() as folder:
        torch.save({"model": lavis.state_dict()}, Path(folder, "checkpoint.pth"))
        return load_pretrained(Path(folder, "checkpoint.pth"))


def make_case(num_tokens: int = 4, dtype: torch.dtype = torch.float64) -> Case:
    config = tiny_config(num_tokens=num_tokens)
    lavis = LavisQuRe(config).randomise(seed=num_tokens)
    ours = load_through_the_mapping(lavis)
    assert ours.config == config
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
        assert parameter.numel() == 1 or parameter.std() > 0.08, name


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


# --- vision towers, and a whole training step ----------------------------------------------------


@dataclass(frozen=True)
class Step:
    """What one training step left: by `QuReModel`'s names, the frozen tower's left out."""

    loss: Tensor
    gradients: dict[str, Tensor]
    updated: dict[str, Tensor]


def both_models(encoder: str, dtype: torch.dtype) -> tuple[QuReModel, LavisQuRe]:
    lavis = LavisQuRe(tiny_config(encoder)).randomise(seed=5)
    return load_through_the_mapping(lavis).to(dtype).eval(), lavis.to(dtype).eval()


def draw_pixels(dtype: torch.dtype) -> Tensor:
    """(3, B, 3, 16, 16): reference images, targets and negatives."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, B, 3, 16, 16, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("encoder", ["clip", "eva"])
def test_vision_towers(encoder: str, dtype: torch.dtype):
    ours, lavis = both_models(encoder, dtype)
    pixels = draw_pixels(dtype)[0]
    features = ours.encode_features(pixels)
    assert features.shape == (B, P, ours.config.vision_width) and features.std() > 0.5
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(
        features, lavis.visual_encoder(pixels), rtol=tolerance, atol=tolerance
    )


def take_a_step(model: torch.nn.Module, loss: Tensor, names: Callable[[dict], dict]) -> Step:
    """Backward and one AdamW step, with the published weight decay on everything trained."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, weight_decay=0.05)
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    optimizer.step()
    updated = {n: p.detach() for n, p in model.named_parameters() if n in gradients}
    return Step(loss.detach(), names(gradients), names(updated))


def our_step(model: QuReModel, pixels: Tensor, ids: Tensor, mask: Tensor) -> Step:
    reference, positive, negative = map(model.encode_features, pixels)
    queries = model.encode_query(reference, ids, mask)
    scores = [paired_scores(queries, model.encode_image(i)) for i in (positive, negative)]
    return take_a_step(model, bradley_terry_loss(*scores, model.temperature), dict)


def lavis_step(model: LavisQuRe, pixels: Tensor, ids: Tensor, mask: Tensor) -> Step:
    reference, positive, negative = map(model.visual_encoder, pixels)
    queries = model.query_embedding(reference, ids, mask)
    images = map(model.image_embedding, (positive, negative))
    scores = [model.scores(queries, i).diagonal() for i in images]
    return take_a_step(model, model.kl_loss(*scores), to_qure_names)


@pytest.mark.parametrize("encoder", ["clip", "eva"])
def test_a_whole_training_step_from_pixels(encoder: str, dtype: torch.dtype):
    ours, lavis = both_models(encoder, dtype)
    before = {n: p.detach().clone() for n, p in ours.trainable_parameters().items()}
    case = make_case()
    batch = draw_pixels(dtype), case.ids, case.mask
    step, expected = our_step(ours, *batch), lavis_step(lavis, *batch)
    close = partial(torch.testing.assert_close, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    close(step.loss, expected.loss)
    assert step.gradients.keys() == expected.gradients.keys() == before.keys()
    for name, gradient in step.gradients.items():
        close(gradient, expected.gradients[name])
        # Adam's first step is about LR whatever the gradient: where that is rounding error (the
        # keys' biases move no softmax) so is the step.
        sure = gradient.abs() > SURE_GRADIENT[dtype]
        steps = [(model.updated[name] - before[name]) / LR for model in (step, expected)]
        torch.testing.assert_close(*(s[sure] for s in steps), rtol=0, atol=STEP_TOLERANCE[dtype])
        assert sure.any() or gradient.abs().max() < 1e-6, name


def test_weight_decay_reaches_every_trained_parameter():
    ours, _ = both_models("clip", torch.float64)
    before = {n: p.detach().clone() for n, p in ours.named_parameters()}
    case = make_case()
    step = our_step(ours, draw_pixels(torch.float64), case.ids, case.mask)
    for name, gradient in step.gradients.items():
        decay = before[name] - step.updated[name] - LR * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(decay, LR * 0.05 * before[name], rtol=0, atol=1e-9)
    frozen = before.keys() - step.gradients.keys()
    assert frozen == {n for n in before if n.startswith("vision_encoder.")}
    assert all(torch.equal(before[n], ours.get_parameter(n)) for n in frozen)


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
    assert difference > 0.05  # seen: 2.2 and 4.0


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
