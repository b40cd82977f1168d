"""What every operator has to compute, written out in torch's operators, in any dtype, and calls to try it on.

One operator a file. Nothing here goes through a backend, but Philox's words are the torch backend's: they have one
definition. `alexkern verify` holds every backend to these in float64.
"""
