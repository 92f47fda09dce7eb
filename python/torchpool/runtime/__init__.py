"""What all predictors and executors of a process share.

`runtime` has the workers and their cores; `lifecycle` calls what is to be done at exit and in forked children, in one
order for the whole package.
"""

from torchpool.runtime.lifecycle import Child, Exit, around_fork, at_exit, in_child
from torchpool.runtime.runtime import Runtime, default_runtime

__all__ = ["Child", "Exit", "Runtime", "around_fork", "at_exit", "default_runtime", "in_child"]
