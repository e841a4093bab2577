"""What a recipe gives: trajectory and update, from one simulation, as the run had them."""

from dataclasses import fields

from dfc_numba.dynamics import plasticity
from dfc_numba.dynamics.recipe import StoredUpdate
from dfc_numba.learning.inversion import inversion_update
from dfc_numba.storage import kinds
from dfc_numba.support.validation import choice

ONE_SHOT, INVERTING = "one_shot_feedback_update", "inversion_update"
FUNCTIONS = ("forward_update", "feedback_update", "forward_and_feedback_update", INVERTING, ONE_SHOT)


def computed(recipe, keep=None):
    """Trajectory and update of a recipe.

    A simulation for an update may round in another way than `simulate`: the trajectory is that of the simulation that the
    update was made of, if there was one.

    Args:
        recipe: a `Recipe`; `recipe.update` is empty, or a dict with "function", the name of a function of `FUNCTIONS`, and
            its keyword arguments.
        keep: a `Record`: what to keep of the trajectory; None for no trajectory.

    Returns:
        (trajectory or None, `StoredUpdate` or None): None for what is not asked for or described.

    Raises:
        ValueError, TypeError: for a recipe that cannot be carried out.
    """
    if not recipe.update:
        return _simulated(recipe, keep), None
    if not simulates(recipe.update):
        return _simulated(recipe, keep), _merged(_made(recipe))
    made = _made(recipe, record=keep)
    return made[0].trajectory, _merged(made)


def simulates(update):
    """Whether an update, described as in a `Recipe`, is made from a simulation."""
    return update.get("function") in FUNCTIONS[:-1] and update.get("readout") not in plasticity.SOLVED


def _made(recipe, **options):
    """The results of the function that the recipe names, as a tuple."""
    options |= recipe.update
    name = choice("the function of the update", options.pop("function", None), FUNCTIONS)
    arguments = (recipe.network, recipe.x, recipe.target, recipe.dynamics)
    if name == INVERTING:
        return (inversion_update(*arguments, **options),)
    if name == ONE_SHOT:
        arguments = arguments[:2]
    made = getattr(plasticity, name)(*arguments, noise=recipe.noise, **options)
    return made if isinstance(made, tuple) else (made,)


def _merged(parts):
    """The arrays of several updates in one."""
    kinds = [field.name for field in fields(StoredUpdate)]
    return StoredUpdate(
        **{kind: getattr(part, kind) for part in parts for kind in kinds if hasattr(part, kind)}
    )


def _simulated(recipe, keep):
    if keep is None:
        return None
    if recipe.dynamics is None:
        raise ValueError(f"nothing is simulated in the phase {recipe.phase!r}, which has no controller")
    return kinds.of_options(recipe.dynamics).simulate(recipe, keep)
