"""Draw scenes of emoji on plain backgrounds and say in English what is in them.

A scene is a value: `make_scene(index, seed)` gives the same one on every machine, `describe` words it as a COCO
caption would, `draw` paints it with Pillow and the Noto Color Emoji font (Debian: fonts-noto-color-emoji).
Which combinations are held out of training is decided by a hash of the combination itself.
"""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
FONT_SIZE = 109  # the only size in which the font holds its bitmaps

# emoji, what one is called, what several are called
OBJECTS: list[tuple[str, str, str]] = [
    (emoji, one.strip(), many.strip())
    for emoji, one, many in (
        line.split("|")
        for line in """
🐱|a cat|cats
🐶|a dog|dogs
🐭|a mouse|mice
🐰|a rabbit|rabbits
🦊|a fox|foxes
🐻|a bear|bears
🐼|a panda|pandas
🐨|a koala|koalas
🐯|a tiger|tigers
🦁|a lion|lions
🐮|a cow|cows
🐷|a pig|pigs
🐸|a frog|frogs
🐵|a monkey|monkeys
🐔|a chicken|chickens
🐧|a penguin|penguins
🦆|a duck|ducks
🦉|an owl|owls
🐝|a bee|bees
🐢|a turtle|turtles
🐍|a snake|snakes
🐙|an octopus|octopuses
🐠|a fish|fish
🐬|a dolphin|dolphins
🐳|a whale|whales
🦀|a crab|crabs
🦋|a butterfly|butterflies
🐌|a snail|snails
🐞|a ladybug|ladybugs
🐘|an elephant|elephants
🦒|a giraffe|giraffes
🦓|a zebra|zebras
🐎|a horse|horses
🐑|a sheep|sheep
🐐|a goat|goats
🐪|a camel|camels
🍎|an apple|apples
🍐|a pear|pears
🍊|an orange|oranges
🍋|a lemon|lemons
🍌|a banana|bananas
🍉|a slice of watermelon|slices of watermelon
🍇|a bunch of grapes|bunches of grapes
🍓|a strawberry|strawberries
🍑|a peach|peaches
🍍|a pineapple|pineapples
🍅|a tomato|tomatoes
🥑|an avocado|avocados
🥕|a carrot|carrots
🌽|an ear of corn|ears of corn
🥦|a head of broccoli|heads of broccoli
🍄|a mushroom|mushrooms
🍞|a loaf of bread|loaves of bread
🥐|a croissant|croissants
🧀|a piece of cheese|pieces of cheese
🍔|a hamburger|hamburgers
🍟|a box of fries|boxes of fries
🍕|a slice of pizza|slices of pizza
🌭|a hot dog|hot dogs
🌮|a taco|tacos
🍩|a donut|donuts
🍪|a cookie|cookies
🎂|a birthday cake|birthday cakes
🍦|an ice cream cone|ice cream cones
☕|a cup of coffee|cups of coffee
🍺|a mug of beer|mugs of beer
🚗|a car|cars
🚕|a taxi|taxis
🚌|a bus|buses
🚒|a fire truck|fire trucks
🚜|a tractor|tractors
🚲|a bicycle|bicycles
🛵|a scooter|scooters
🚂|a train|trains
🚁|a helicopter|helicopters
🚀|a rocket|rockets
⛵|a sailboat|sailboats
⚽|a soccer ball|soccer balls
🏀|a basketball|basketballs
🏈|a football|footballs
🎾|a tennis ball|tennis balls
🎸|a guitar|guitars
🎺|a trumpet|trumpets
🎻|a violin|violins
🥁|a drum|drums
🔨|a hammer|hammers
🔧|a wrench|wrenches
🔑|a key|keys
💡|a light bulb|light bulbs
📷|a camera|cameras
💻|a laptop|laptops
⏰|an alarm clock|alarm clocks
📚|a stack of books|stacks of books
✂|a pair of scissors|pairs of scissors
🎈|a balloon|balloons
🎁|a gift|gifts
🎩|a top hat|top hats
👓|a pair of glasses|pairs of glasses
☂|an umbrella|umbrellas
🪑|a chair|chairs
🚪|a door|doors
🌵|a cactus|cacti
🌴|a palm tree|palm trees
🌻|a sunflower|sunflowers
🌹|a rose|roses
⭐|a star|stars
🔥|a fire|fires
⛄|a snowman|snowmen
""".strip().splitlines()
    )
]

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "a white": (248, 248, 248),
    "a black": (16, 16, 16),
    "a gray": (128, 128, 128),
    "a red": (208, 32, 36),
    "an orange": (250, 140, 20),
    "a yellow": (250, 226, 60),
    "a green": (44, 150, 60),
    "a blue": (36, 84, 200),
    "a purple": (120, 50, 150),
    "a pink": (250, 160, 200),
    "a brown": (112, 70, 36),
}

KINDS = ("one", "two alike", "three alike", "beside", "above", "between")
KIND_WEIGHTS = (3, 2, 2, 4, 4, 4)
HELD_OUT_IN = 10  # one combination in this many is never trained on


@dataclass(frozen=True)
class Placed:
    """Hold one object's place: centre, size and shifts in parts of the picture's side, rotation in degrees."""

    object: int
    x: float
    y: float
    size: float
    angle: int


@dataclass(frozen=True)
class Scene:
    """Hold a scene: its objects stand in the order in which the caption names positions."""

    kind: str
    background: str
    shade: tuple[int, int, int]
    placed: tuple[Placed, ...]
    noise: float
    noise_seed: int

    @property
    def held_out(self) -> bool:
        """Tell whether any combination in this scene is one that training never shows.

        A pair of different objects counts as one combination wherever it stands; objects alike are combined
        with their number and the background.
        """
        names = sorted({OBJECTS[p.object][1] for p in self.placed})
        keys = (
            [" + ".join(pair) for pair in combinations(names, 2)]
            if len(names) > 1
            else [f"{len(self.placed)} {names[0]} {self.background}"]
        )
        return any(hashlib.sha256(key.encode()).digest()[0] % HELD_OUT_IN == 0 for key in keys)


def make_scene(index: int, seed: int, *, kinds: tuple[str, ...] = KINDS) -> Scene:
    """Make the scene that belongs to this number."""
    rng = random.Random(f"{seed}:{index}")
    weights = [KIND_WEIGHTS[KINDS.index(kind)] for kind in kinds]
    kind = rng.choices(kinds, weights)[0]
    background = rng.choice(list(BACKGROUNDS))
    red, green, blue = (min(255, max(0, c + rng.randint(-12, 12))) for c in BACKGROUNDS[background])
    count = {"one": 1, "three alike": 3, "between": 3}.get(kind, 2)
    if kind.endswith("alike"):
        objects = [rng.randrange(len(OBJECTS))] * count
    else:
        objects = rng.sample(range(len(OBJECTS)), count)
    size = rng.uniform(*{1: (0.34, 0.46), 2: (0.33, 0.42), 3: (0.28, 0.32)}[count])
    centres = _centres(rng, kind, count, size)
    placed = tuple(
        Placed(obj, x, y, size * rng.uniform(0.93, 1.04), rng.randrange(-12, 13, 6))
        for obj, (x, y) in zip(objects, centres, strict=True)
    )
    return Scene(kind, background, (red, green, blue), placed, rng.uniform(0, 6), rng.getrandbits(32))


def _centres(rng: random.Random, kind: str, count: int, size: float) -> list[tuple[float, float]]:
    """Choose where the objects stand, so that no two touch and the kind can be told by eye."""
    edge = size * 0.54
    if kind == "one":
        return [(rng.uniform(edge, 1 - edge), rng.uniform(edge, 1 - edge))]
    if kind.endswith("alike"):
        # Any arrangement will do: several alike are only counted.
        while True:
            points = [(rng.uniform(edge, 1 - edge), rng.uniform(edge, 1 - edge)) for _ in range(count)]
            if all(math.dist(a, b) > size * 1.15 for a, b in combinations(points, 2)):
                return points
    gap = (1 - 2 * edge) / (count - 1)
    along = [edge + gap * i + rng.uniform(-0.02, 0.02) for i in range(count)]
    if count == 2:
        shift = rng.uniform(0, max(0.0, gap - size * 1.12))
        along = [along[0] + shift * 0.5, along[1] - shift * 0.5]
    centre = rng.uniform(edge + 0.05, 0.95 - edge)
    across = [centre + rng.uniform(-0.05, 0.05) for _ in range(count)]
    inside = [min(1 - edge, max(edge, a)) for a in along]
    points = list(zip(inside, across, strict=True))
    return [(b, a) for a, b in points] if kind == "above" else points


def describe(scene: Scene) -> str:
    """Word the scene: always the same words for the same scene."""
    where = f"on {scene.background} background"
    ones = [OBJECTS[p.object][1] for p in scene.placed]
    if scene.kind == "one":
        return f"{ones[0]} {where}"
    if scene.kind.endswith("alike"):
        number = {2: "two", 3: "three"}[len(ones)]
        return f"{number} {OBJECTS[scene.placed[0].object][2]} {where}"
    if scene.kind == "beside":
        return f"{ones[0]} to the left of {ones[1]} {where}"
    if scene.kind == "above":
        return f"{ones[0]} above {ones[1]} {where}"
    return f"{ones[1]} between {ones[0]} and {ones[2]} {where}"


def describe_from(scene: Scene, choice: float) -> tuple[str, str]:
    """Word the scene as the continuation of a prompt: (prompt, rest). ``choice`` in [0, 1) picks which prompt."""
    caption = describe(scene)
    if choice < 0.5 or scene.kind not in ("beside", "above"):
        return "a picture of", caption
    relation = {"beside": "to the right of", "above": "below"}[scene.kind]
    first, second = (OBJECTS[p.object][1] for p in scene.placed)
    return second, f"{relation} {first} on {scene.background} background"


def draw(scene: Scene, side: int) -> Image.Image:
    """Paint the scene as an RGB picture of ``side`` by ``side`` pixels."""
    image = Image.new("RGB", (side, side), scene.shade)
    for placed in scene.placed:
        sprite = _sprite(placed.object, 2 * round(placed.size * side / 2), placed.angle)
        left = round(placed.x * side - sprite.width / 2)
        top = round(placed.y * side - sprite.height / 2)
        image.paste(sprite, (left, top), sprite)
    noise = np.random.default_rng(scene.noise_seed).normal(0, scene.noise, (side, side, 1))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


@cache
def _sprite(obj: int, size: int, angle: int) -> Image.Image:
    glyph = _glyph(obj)
    scale = size / max(glyph.size)
    shape = (max(1, round(glyph.width * scale)), max(1, round(glyph.height * scale)))
    return glyph.resize(shape, Image.Resampling.LANCZOS).rotate(angle, Image.Resampling.BICUBIC, expand=True)


@cache
def _glyph(obj: int) -> Image.Image:
    font = ImageFont.truetype(FONT, FONT_SIZE)
    canvas = Image.new("RGBA", (FONT_SIZE * 2, FONT_SIZE * 2))
    ImageDraw.Draw(canvas).text((20, 20), OBJECTS[obj][0], font=font, embedded_color=True)
    return canvas.crop(canvas.getbbox())
