"""The only room that imports lightning's Trainer: the module, callbacks, checkpoints, runs and command line."""
