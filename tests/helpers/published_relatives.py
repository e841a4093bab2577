"""The published numbers of the relatives' presets, transcribed on their own: what each preset has to state, key by key."""

TP_NAMES = "lr eta beta1 beta2 eps lr_fb sigma wd beta1_fb beta2_fb eps_fb"
TP = {
    "tp-mnist-dtpdrl": "2.969e-5 0.06859 .9 .99 1.0e-8 2.012e-5 0.05688 5.385e-6 .99 .999 5.08e-8",
    "tp-mnist-ddtp-linear": "2.035e-5 0.06097 .9 .999 1.26e-8 1.638e-4 0.09075 5.836e-7 .999 .999 2.84e-4",
    "tp-mnist-ddtp-rhl": "2.805e-5 0.04352 .9 .99 3.98e-8 3.024e-4 0.04162 1.621e-3 .9 .999 3.40e-6",
    "tp-mnist-dtp": "8.755e-5 0.2959 .9 .99 1.35e-7 4.635e-4 0.1730 2.192e-3 .9 .9 4.37e-7",
}
TP_COMMON = {
    "network.hidden": [256] * 5, "network.hidden_activation": "tanh", "network.init": "xavier_normal",
    "training.epochs": 100, "training.batch_size": 128, "training.dtype": "float64", "feedback.pretraining_epochs": 6,
    "feedback.extra_epochs": 1, "optimizer.divide_by_step": True, "target.step_per": "minibatch",
}  # fmt: skip
ADAM = {"optimizer.name": "adam", "optimizer.beta1": 0.9, "optimizer.beta2": 0.999, "optimizer.epsilon": 1e-8}
EP = {**ADAM, "target.loss": "mse"}
ENERGY = {
    **EP, "network.hidden": [1000], "network.hidden_activation": "sigmoid", "method.beta": 1.0, "method.dt": 0.1,
    "training.batch_size": 100, "optimizer.learning_rate": 1e-3,
}  # fmt: skip
DISCRETE = {
    **EP, "network.hidden": [512], "network.hidden_activation": "steepsigmoid", "method.beta": 0.1,
    "method.free_steps": 30, "method.nudged_steps": 10, "training.batch_size": 50, "optimizer.learning_rate": 5e-4,
    "data.options": {"standardise": False},
}  # fmt: skip
LCP_BP = {
    **ADAM, "network.hidden": [256, 256], "network.hidden_activation": "tanh", "training.epochs": 30,
    "training.batch_size": 64, "optimizer.learning_rate": 1e-3, "optimizer.cosine_to": 0.1,
}  # fmt: skip
LCP = {**LCP_BP, "method.alpha": 0.1, "method.k_i": 1.0, "method.k_p": 0.0}
LCP_RNN = {
    "network.hidden": [256],
    "method.dt": 1.0,
    "method.steps": 800,
    "method.tolerance": 1e-6,
    "method.clip": 10.0,
}
GRAPES = {
    "network.hidden": [256, 256], "network.hidden_activation": "relu", "network.bias": False, "network.init": "he_uniform",
    "optimizer.name": "sgd", "optimizer.learning_rate": 0.1, "training.batch_size": 64, "training.epochs": 200,
    "method.keep": 0.9, "method.form": "propagating", "data.options": {"standardise": False},
}  # fmt: skip
OTHERS = {
    "tp-mnist-bp": {"optimizer.learning_rate": 2.970e-4, "optimizer.beta1": 0.99, "optimizer.beta2": 0.999,
                    "optimizer.epsilon": 6.93e-8, "network.hidden": [256] * 5, "training.batch_size": 128},
    "ep-mnist-hopfield": {**ENERGY, "method.free_steps": 50, "method.nudged_steps": 50, "training.epochs": 100},
    "ep-mnist-gaussian": {**ENERGY, "method.nudged_steps": 20, "training.epochs": 50},
    "ep-mnist-prototypical": DISCRETE,
    "ep-mnist-vector-field": {**DISCRETE, "feedback_optimizer.learning_rate": 5e-4},
    "lcp-mnist-bp": LCP_BP,
    "lcp-mnist-di": LCP,
    "lcp-mnist-kp": {**LCP, "method.pair_decay": 1e-6, "feedback_optimizer.learning_rate": 1e-3},
    "lcp-mnist-lf": {**LCP, "method.dt": 1.0, "method.steps": 800, "method.sigma": 0.01, "method.speed": 5.0,
                     "feedback_optimizer.learning_rate": 1e-5, "feedback_optimizer.weight_decay": 0.01},
    "lcp-mnist-rnn-bp": {**LCP_BP, **LCP_RNN},
    **{
        f"lcp-mnist-rnn-{rule}": {**LCP, **LCP_RNN, **more}
        for rule, more in {
            "di": {}, "kp": {"method.pair_decay": 1e-6, "feedback_optimizer.learning_rate": 1e-3},
            "lf": {"method.sigma": 0.01, "method.speed": 5.0, "feedback_optimizer.learning_rate": 1e-5,
                   "feedback_optimizer.weight_decay": 0.01},
        }.items()
    },
    "grapes-mnist-bp": {**GRAPES, "method.clip": [1.0, 2.0]},
    "grapes-mnist-fa": {**GRAPES, "method.clip": "none"},
    "grapes-mnist-dfa": {**GRAPES, "method.clip": "none"},
}  # fmt: skip
PRESETS = [*TP, *OTHERS]


def expected(name):
    """The published values by `section.key`."""
    if name in OTHERS:
        return OTHERS[name]
    lr, eta, beta1, beta2, eps, lr_fb, sigma, wd, beta1_fb, beta2_fb, eps_fb = map(float, TP[name].split())
    return {
        **TP_COMMON, "optimizer.learning_rate": lr, "target.step": eta, "optimizer.beta1": beta1,
        "optimizer.beta2": beta2, "optimizer.epsilon": eps, "feedback_optimizer.learning_rate": lr_fb,
        "feedback_optimizer.pretraining_learning_rate": lr_fb, "method.sigma": sigma,
        "feedback_optimizer.weight_decay": wd, "feedback_optimizer.beta1": beta1_fb,
        "feedback_optimizer.beta2": beta2_fb, "feedback_optimizer.epsilon": eps_fb,
    }  # fmt: skip
