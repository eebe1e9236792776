"""Robot pushing on MuJoCo, in the style of the BAIR robot pushing data set (Ebert et al. 2017, arXiv 1710.05268).

A seven-joint arm moves random toys in a wooden bin. `push_env` is the environment, `simulation` its physics; `scene`,
`arm` and `toys` describe an episode as MuJoCo XML; `mujoco_renderer` renders; the rows name `push_policies` and
`push_objects`. Importing this package does not import mujoco.
"""
