"""How fast vaejax is: training, evaluation, start, sweeps and scale, against others and against the machine.

Shows: examples per second of vaejax, a bare JAX loop, PyTorch, numpyro and pythae on the same models; the share of the
  machine's matrix rate; what a start, a sweep, and more of everything cost.
Command: make bench; for some of it: make bench ARGS="--only mlp conv"
Time: fifteen minutes on 2 cores that nothing else uses.
Measures: seconds of interleaved rounds and their medians; compilation is not in them but where it says so. Speed does
  not depend on what is in the images, so random ones stand in for real ones.
  Whatever else the machine does, it does to PyTorch most of all, whose threads wait by spinning.
"""
