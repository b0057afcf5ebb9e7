"""The five meta-classes that scene flow is scored by, from the words of the data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from invtoolbox.errors import InputError

BACKGROUND = "BACKGROUND"

_AV2 = {
    "CAR": ("REGULAR_VEHICLE",),
    "OTHER_VEHICLES": (
        "ARTICULATED_BUS",
        "BOX_TRUCK",
        "BUS",
        "LARGE_VEHICLE",
        "RAILED_VEHICLE",
        "SCHOOL_BUS",
        "TRUCK",
        "TRUCK_CAB",
        "VEHICULAR_TRAILER",
    ),
    "PEDESTRIAN": ("OFFICIAL_SIGNALER", "PEDESTRIAN", "STROLLER", "WHEELCHAIR"),
    "WHEELED_VRU": (
        "BICYCLE",
        "BICYCLIST",
        "MOTORCYCLE",
        "MOTORCYCLIST",
        "WHEELED_DEVICE",
        "WHEELED_RIDER",
    ),
}

#: The meta-class of each word of Argoverse 2. Signs, cones, traffic lights on trailers and animals are in none, so that they do not count.
AV2_META_CLASSES: Mapping[str, str] = {word: meta for meta, words in _AV2.items() for word in words}

#: The meta-classes, in the order of tables.
META_CLASSES = (BACKGROUND, *_AV2)

# What other data sets, and our simulator, call the same.
_OTHERS = {
    "CAR": ("CAR", "VEHICLE", "VEHICLE.CAR", "TYPE_VEHICLE"),
    "OTHER_VEHICLES": (
        "VAN",
        "TRAM",
        "TRAILER",
        "VEHICLE.TRUCK",
        "VEHICLE.TRAILER",
        "VEHICLE.CONSTRUCTION",
        "VEHICLE.BUS.BENDY",
        "VEHICLE.BUS.RIGID",
        "VEHICLE.EMERGENCY.POLICE",
        "VEHICLE.EMERGENCY.AMBULANCE",
    ),
    "PEDESTRIAN": (
        "PERSON",
        "PERSON_SITTING",
        "HUMAN.PEDESTRIAN.ADULT",
        "HUMAN.PEDESTRIAN.CHILD",
        "HUMAN.PEDESTRIAN.WHEELCHAIR",
        "HUMAN.PEDESTRIAN.STROLLER",
        "HUMAN.PEDESTRIAN.PERSONAL_MOBILITY",
        "HUMAN.PEDESTRIAN.POLICE_OFFICER",
        "HUMAN.PEDESTRIAN.CONSTRUCTION_WORKER",
        "TYPE_PEDESTRIAN",
    ),
    "WHEELED_VRU": ("CYCLIST", "VEHICLE.BICYCLE", "VEHICLE.MOTORCYCLE", "TYPE_CYCLIST"),
    BACKGROUND: (
        BACKGROUND,
        "NONE",
        "GROUND",
        "ROAD",
        "BUILDING",
        "POLE",
        "TREE",
        "VEGETATION",
        "UNLABELED",
        "NOISE",
    ),
}
_MEANING = {**{word: meta for meta, words in _OTHERS.items() for word in words}, **AV2_META_CLASSES}


def meta_class(
    category: Tensor, categories: Sequence[str], meaning: Mapping[str, str] | None = None
) -> Tensor:
    """The place in `META_CLASSES` of each point, int64 of the shape of `category`; -1 for a category of none of them.

    Args:
        category: indices into `categories`. -1, a point outside of every labelled box, is background.
        categories: the words of the data set; capitals do not matter.
        meaning: the meta-class of each word, in place of the table of this module (Argoverse 2, and the words of KITTI, nuScenes, Waymo
            and the simulator that name the same things).

    >>> meta_class(torch.tensor([-1, 0, 1, 2]), ("REGULAR_VEHICLE", "BICYCLE", "STOP_SIGN"))
    tensor([ 0,  1,  4, -1])
    """
    if category.is_floating_point() or category.dtype == torch.bool:
        raise InputError(
            f"the category is {category.dtype}; give whole numbers, indices into the words of the data set"
        )
    if category.numel() and not (
        int(category.min()) >= -1 and int(category.max()) < len(categories)
    ):
        raise InputError(
            f"a category is {int(category.max())} or {int(category.min())}; there are {len(categories)} words, so give -1 to "
            f"{len(categories) - 1}"
        )
    known = {
        word.upper(): meta for word, meta in (_MEANING if meaning is None else meaning).items()
    }
    wrong = sorted(set(known.values()) - set(META_CLASSES))
    if wrong:
        raise InputError(f"{wrong[0]!r} is no meta-class; use {', '.join(META_CLASSES)}")
    places = [
        META_CLASSES.index(known[word.upper()]) if word.upper() in known else -1
        for word in categories
    ]
    # The last entry is what -1 finds: outside of every box is background.
    table = torch.tensor([*places, 0], dtype=torch.int64, device=category.device)
    return table[category.to(torch.int64)]
