"""A model that answers in shared batches and stays the object that it was.

`accelerating` finds the module in what it is given (`found`) and swaps its class for one made for it (`made_class`),
which is copied and pickled as the plain one (`reduced`). Where that would make a difference (`own_type`), the class
itself is entered (`own_class`). Calls from outside come by an `_core.Entrance` there; it asks a `keeper` for the
predictor, which learns from a `twin` of the module. `whole_class` is for all objects of a class.
"""

from torchpool.inplace.accelerating import accelerate, predictor_of, restore

__all__ = ["accelerate", "predictor_of", "restore"]
