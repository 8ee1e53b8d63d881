"""The Vision Transformer: which pixels become which vector, where prompts go in, and what the head reads."""

import torch
from torch import nn

from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import after_a_move, arrivals, fill, numbers, types, usual_type
from minipeft.models.transformer import Begin, Cache

observe = Observations()

D, SIDE, PATCH, N, CLASSES = 6, 6, 2, 9, 4  # 9 patches of 2 × 2 pixels


def config(impl, **settings):
    shape = {"dim": D, "layers": 2, "heads": 2, "ff": 8}
    return impl.VisionConfig(SIDE, PATCH, CLASSES, **shape | settings)


def embed(impl, channels=1, norm=False):
    """A PatchEmbed with random numbers, for all observations of a module: to make it takes longer than to use it."""
    known = vars(impl).setdefault("embeds of the bank", {})
    if (channels, norm) not in known:
        settings = config(impl, channels=channels, embed_norm=norm)
        known[channels, norm] = fill(impl.PatchEmbed(settings), scale=1.0).eval()
    return known[channels, norm]


def vit(impl, **settings):
    """A whole model with random numbers. It is the caller's own: observations put other parts in."""
    return fill(impl.ViT(config(impl, **settings))).eval()


def kept(impl):
    """A model that no observation changes, for several of them."""
    known = vars(impl)
    if "model of the bank" not in known:
        known["model of the bank"] = vit(impl)
    return known["model of the bank"]


def pictures(channels=1):
    return numbers("pictures", (3, channels, SIDE, SIDE)).abs()


def count(channels=1):
    """A picture in which every pixel has a number of its own: row by row, channel by channel."""
    return torch.arange(channels * SIDE * SIDE, dtype=torch.get_default_dtype()).view(1, channels, SIDE, SIDE)


class Seen(nn.Module):
    """In place of a head: keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.given = []

    def forward(self, x):
        self.given.append(x)
        return x.new_zeros(len(x), CLASSES)


class Front(Begin):
    """In place of a method on `begin`: vectors in front, as of a prompt, and keys and values in each layer."""

    def __init__(self, *front, keys=0):
        super().__init__()
        self.front, self.keys = front, keys

    def forward(self, blocks):
        cache = super().forward(blocks)
        cache.front += self.front
        for i, layer in enumerate(cache.layers[: len(blocks) if self.keys else 0]):
            layer.extend(*(numbers(f"learned {w} {i}", (2, self.keys, 3)) for w in "kv"))
        return cache


def prompt(name="P", n=2):
    return numbers(name, (n, D))


def with_front(*front):
    cache = Cache(1)
    cache.front += front
    return cache


def patches_read(impl, channels=1):
    """The numbers of the pixels of each patch, (N, C·p·p): they come out where W is the identity, and b is 0."""
    made = impl.PatchEmbed(config(impl, channels=channels, dim=channels * PATCH**2)).eval()
    with torch.no_grad():
        for p in made.parameters():
            p.zero_()
        made.patch.weight.copy_(torch.eye(channels * PATCH**2))
        return made(count(channels))[0, 1:]


def where(pixels, channels=1):
    """Pixels by their places, ["row 1, column 1", ...]. A number that is no pixel's stays as it is."""
    found = []
    for number in pixels.tolist():
        channel, place = divmod(number, SIDE * SIDE)
        y, x = divmod(place, SIDE)
        told = f"row {y + 1:g}, column {x + 1:g}" + (f", channel {channel + 1:g}" if channels > 1 else "")
        found.append(told if 0 <= number < channels * SIDE * SIDE and number == int(number) else number)
    return found


# ---- pictures to vectors ----------------------------------------------------------------------------------------


@observe("patches", "A picture of N patches should become 1 + N vectors: the class token, and one for each patch.")
def shape_of_the_vectors(impl):
    return {f"{channels} channels": list(embed(impl, channels)(pictures(channels)).shape) for channels in (1, 3)}


@observe("patches", "The pixels should be read as they are: nothing is added to them, and nothing scales them.")
def pixels_as_they_are(impl):
    return patches_read(impl).flatten().sort().values


@observe("patches", "The first patch does not hold the pixels of the square at the top left, row by row.")
def pixels_of_the_first_patch(impl):
    return where(patches_read(impl)[0])


@observe("patches", "The patches do not come from left to right and from top to bottom; told by their first pixels.")
def order_of_the_patches(impl):
    return where(patches_read(impl)[:, 0])


@observe("patches", "In a patch of several channels, all pixels of one channel should stand before those of the next.")
def pixels_of_several_channels(impl):
    return where(patches_read(impl, 3)[4], 3)


@observe("patches", "The vectors of the patches are not W p + b plus their positions.")
def vectors_of_the_patches(impl):
    return {f"{channels} channels": embed(impl, channels)(pictures(channels))[:, 1:] for channels in (1, 3)}


# ---- the class token and positions --------------------------------------------------------------------------------


@observe("class token", "The class token should stand before the patches, the same for every picture.")
def where_the_class_token_stands(impl):
    x, made = embed(impl)(pictures()), embed(impl)
    start = made.class_token + made.position.weight[:1]
    return {f"picture {i}": [bool(v.allclose(start[0])) for v in row] for i, row in enumerate(x, 1)}


@observe("class token", "The vector of the class token is not c plus position 0.")
def vector_of_the_class_token(impl):
    return embed(impl)(pictures())[:, 0]


@observe("class token", "Two equal patches should differ by their positions, and by nothing else.")
def what_positions_add(impl):
    x = embed(impl)(torch.ones(1, 1, SIDE, SIDE))
    return x[:, 2:] - x[:, 1:2]


@observe("class token", "With `embed_norm`, as in CLIP, a LayerNorm should be the last thing that happens to a vector.")
def vectors_with_a_norm(impl):
    return embed(impl, norm=True)(pictures())


# ---- vectors in front ---------------------------------------------------------------------------------------------


@observe("in front", "With n vectors in front there should be n + 1 + N vectors in each row.")
def shape_with_a_front(impl):
    return list(embed(impl)(pictures(), with_front(prompt())).shape)


@observe("in front", "The vectors of the cache should stand before the class token, and have no positions.")
def vectors_with_a_front(impl):
    return embed(impl)(pictures(), with_front(prompt()))


@observe("in front", "Two prompts should stand one behind the other, in the order of the list.")
def two_fronts(impl):
    return embed(impl)(pictures(), with_front(prompt(), prompt("Q", 1)))


@observe("in front", "Where each picture brings vectors of its own, (B, n, d), some get those of others.")
def a_front_for_each_picture(impl):
    return embed(impl)(pictures(), with_front(numbers("fronts", (3, 2, D))))


@observe("in front", "The norm should be applied to the vectors in front too.")
def a_front_with_a_norm(impl):
    return embed(impl, norm=True)(pictures(), with_front(prompt()))


@observe("in front", "Once they stand before the class token, the vectors should be taken out of the cache.")
def what_is_left_in_the_cache(impl):
    cache = with_front(prompt())
    embed(impl)(pictures(), cache)
    return len(cache.front)


# ---- the model ------------------------------------------------------------------------------------------------------


@observe("model", "There should be one row of logits for each picture: (B, classes).")
def shape_of_the_logits(impl):
    return list(kept(impl)(pictures()).shape)


@observe("model", "Pictures of one channel may come without an axis for it, (B, side, side).")
@torch.no_grad()
def pictures_without_channels(impl):
    return kept(impl)(pictures()[:, 0]) - kept(impl)(pictures())


@observe("model", "The model should run embed, every block in its order, and the norm, and then the head.")
@torch.no_grad()
def what_runs_and_in_which_order(impl):
    made, order = vit(impl, layers=3), []
    named = [("embed", made.embed), *((f"block {i}", b) for i, b in enumerate(made.blocks)), ("norm", made.norm)]
    for name, part in [*named, ("head", made.head)]:
        part.register_forward_hook(lambda *_, name=name: order.append(name))
    made(pictures())
    return order


@observe("model", "The pictures should reach `embed` as they are, only in the type of the weights.")
@torch.no_grad()
def what_embed_is_given(impl):
    made, given = vit(impl), []
    made.embed.register_forward_pre_hook(lambda _, args: given.append(args[0].clone()))
    made(pictures())
    return [images - pictures() for images in given]


@observe("model", "The head should read what the norm gives for the class token and the patches: 1 + N vectors.")
@torch.no_grad()
def what_the_head_reads(impl):
    made = vit(impl)
    made.head = seen = Seen()
    made(pictures())
    return seen.given[0]


@observe("model", "Every patch should see all patches: attention in a ViT has no mask.")
@torch.no_grad()
def what_each_vector_sees(impl):
    made = vit(impl, layers=1)
    made.head = seen = Seen()
    last = pictures()
    last[:, :, -PATCH:, -PATCH:] += 1  # the last patch alone
    made(pictures())
    made(last)
    before, after = seen.given
    return [bool(moved > 1e-9) for moved in (after - before).abs().amax((0, 2))]


@observe("model", "The logits are not the expected ones.")
@torch.no_grad()
def logits(impl):
    return kept(impl)(pictures())


@observe("model", "What is no batch of pictures should be refused with a ValueError before any work.")
def what_is_refused(impl):
    made, work = kept(impl), []
    hook = made.embed.register_forward_pre_hook(lambda *_: work.append(1))
    wrong = {
        "whole numbers": torch.ones(2, 1, SIDE, SIDE, dtype=torch.uint8),
        "a picture without a batch": pictures()[0],
        "another size": torch.ones(2, 1, SIDE + PATCH, SIDE + PATCH),
    }
    found = {}
    for name, images in wrong.items():
        try:
            made(images)
            found[name] = "read"
        except ValueError:
            found[name] = "refused" if not work else "refused after some work"
        except Exception as error:
            found[name] = f"{type(error).__name__}"
        work.clear()
    hook.remove()
    return found


# ---- methods on the model -------------------------------------------------------------------------------------------


@observe("methods", "Prompts in front should be carried through the blocks and cut off before the norm and the head.")
@torch.no_grad()
def what_the_head_reads_with_a_prompt(impl):
    made = vit(impl)
    made.begin, made.head = Front(prompt(), prompt("Q", 1)), Seen()
    made(pictures())
    return made.head.given[0]


@observe("methods", "With a prompt in front, the logits are not the expected ones.")
@torch.no_grad()
def logits_with_a_prompt(impl):
    made = vit(impl)
    made.begin = Front(prompt())
    return made(pictures())


@observe("methods", "Keys and values that a method puts into the layers, a prefix say, should be read in every layer.")
@torch.no_grad()
def logits_with_a_prefix(impl):
    made = vit(impl)
    made.begin = Front(keys=2)
    return made(pictures())


@observe("methods", "Each pass should begin anew: a second one should give what the first one gave.")
@torch.no_grad()
def a_second_pass(impl):
    made = vit(impl)
    made.begin = Front(prompt(), keys=1)
    return made(pictures()) - made(pictures())


@observe("methods", "A block that runs twice, as under checkpointing, should not see its own keys: fix the cache.")
@torch.no_grad()
def a_block_that_runs_twice(impl):
    class Twice(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, x, mask=None, cache=None):
            self.block(x, mask, cache)
            return self.block(x, mask, cache)

    made = vit(impl)
    made.begin = Front(keys=2)
    once = made(pictures())
    made.blocks = nn.ModuleList(map(Twice, made.blocks))
    return made(pictures()) - once


@observe("methods", "After all weights have changed, the answer should follow. Is something kept from an earlier pass?")
@torch.no_grad()
def after_a_change(impl):
    return after_a_move(lambda: vit(impl), lambda made: made(pictures()))


@observe(
    "methods", "A prompt that is put in front after a first pass should change the answer as one from the start does."
)
@torch.no_grad()
def a_prompt_after_a_pass(impl):
    found = []
    for earlier in (True, False):
        made = vit(impl)
        if earlier:
            made(pictures())
        made.begin = Front(prompt())
        found.append(made(pictures()))
    return found[0] - found[1]


# ---- gradients and types --------------------------------------------------------------------------------------------


@observe("gradients", "A gradient should reach every weight, the class token, the positions and the vectors in front.")
def where_gradients_arrive(impl):
    made = fill(impl.ViT(config(impl, embed_norm=True)))
    front = [prompt().requires_grad_(), numbers("fronts", (3, 1, D)).requires_grad_()]
    made.begin = Front(*front)
    found = arrivals(made, made(pictures()) * numbers("to", (3, CLASSES)))
    found = {name: arrived for name, arrived in found.items() if not name.endswith("attn.k.bias")}  # softmax: none
    return found | {f"in front, {n}": f.grad is not None and bool(f.grad.any()) for n, f in enumerate(front, 1)}


@observe("gradients", "The gradient that reaches the vectors in front, a visual prompt, is not the expected one.")
def gradient_of_the_front(impl):
    made, front = vit(impl).requires_grad_(False), prompt().requires_grad_()
    made.begin = Front(front)
    (made(pictures()) * numbers("to", (3, CLASSES))).sum().backward()
    return front.grad


@observe("gradients", "The base is frozen and the pictures are the caller's: a pass should change neither.")
@torch.no_grad()
def what_is_left_alone(impl):
    made, images, front = vit(impl), pictures(), prompt()
    before = {name: t.clone() for name, t in made.state_dict().items()}
    made.begin = Front(front)
    made(images)
    changed = [name for name, t in made.state_dict().items() if not t.equal(before[name])]
    return {"weights": changed, "pictures": images - pictures(), "vectors in front": front - prompt()}


@observe("types", "With weights in bfloat16 or float64 the model should read the same pictures, and answer so.")
def types_of_numbers(impl):
    with usual_type():
        images = pictures().float()
    return types(lambda dtype: impl.ViT(config(impl)).to(dtype).eval(), lambda made: made(images))


@observe("types", "In training, the same pictures should give the same logits as in evaluation.")
@torch.no_grad()
def training_is_like_evaluation(impl):
    made = vit(impl)
    return made.train()(pictures()) - made.eval()(pictures())
