"""Settings as flags, and known names. Written by tools/write_settings.py from what ``Config`` and the registries say."""

from __future__ import annotations

from gradlens.cli.flags import Flag

METHODS = ('bp', 'dgl', 'dni', 'cdni', 'fa', 'dfa', 'greedy', 'chunked', 'overlap', 'loco', 'dgl-async', 'kp', 'usf', 'brsf', 'frsf', 'predsim', 'infopro', 'dni-unlocked', 'shallow', 'simclr', 'simclr-local', 'cpc', 'cpc-local', 'infomax', 'context-encoder', 'context-encoder-local', 'distil')
OPTIONS = {'bp': ('lr',), 'dgl': ('head', 'layers', 'width', 'pooled', 'rank', 'lr'), 'dni': ('target', 'zero_bias', 'synth_warmup', 'bp_lambda', 'width', 'linear', 'at', 'lr'), 'cdni': ('target', 'zero_bias', 'synth_warmup', 'bp_lambda', 'width', 'linear', 'at', 'lr'), 'fa': ('init', 'scale', 'lr'), 'dfa': ('shared', 'scale', 'skip', 'points', 'embed_point', 'feedback', 'embedding', 'error', 'lr'), 'greedy': ('stage_epochs', 'hidden', 'ensemble', 'lr'), 'chunked': ('head', 'layers', 'width', 'pooled', 'rank', 'chunks', 'lr'), 'overlap': ('head', 'layers', 'width', 'pooled', 'rank', 'window', 'stride', 'lr'), 'loco': ('crop', 'min_area', 'flip', 'jitter', 'grey', 'blur', 'temperature', 'layers', 'out', 'side', 'convolutions', 'modules', 'lr'), 'dgl-async': ('head', 'layers', 'width', 'pooled', 'rank', 'buffer', 'reuse', 'order', 'slowed', 'slowdown', 'warmup', 'lr'), 'kp': ('init', 'scale', 'lr'), 'usf': ('init', 'scale', 'lr'), 'brsf': ('init', 'scale', 'lr'), 'frsf': ('init', 'scale', 'lr'), 'predsim': ('beta', 'dim', 'lr'), 'infopro': ('head', 'layers', 'width', 'pooled', 'rank', 'lambda1_first', 'lambda1_last', 'lambda2_first', 'lambda2_last', 'chunks', 'lr'), 'dni-unlocked': ('target', 'zero_bias', 'synth_warmup', 'bp_lambda', 'width', 'linear', 'at', 'input_width', 'context', 'lr'), 'shallow': ('statistics', 'lr'), 'simclr': ('crop', 'min_area', 'flip', 'jitter', 'grey', 'blur', 'temperature', 'layers', 'out', 'side', 'convolutions', 'lr'), 'simclr-local': ('crop', 'min_area', 'flip', 'jitter', 'grey', 'blur', 'temperature', 'layers', 'out', 'side', 'convolutions', 'modules', 'lr'), 'cpc': ('patch', 'stride', 'crop', 'flip', 'grey', 'negatives', 'steps', 'skip', 'layers', 'lr'), 'cpc-local': ('patch', 'stride', 'crop', 'flip', 'grey', 'negatives', 'steps', 'skip', 'layers', 'modules', 'lr'), 'infomax': ('patch', 'stride', 'crop', 'flip', 'grey', 'negatives', 'steps', 'skip', 'modules', 'lr'), 'context-encoder': ('corrupt', 'size', 'cells', 'noise', 'overlap', 'lambda_rec', 'lambda_adv', 'discriminator_lr', 'discriminator_width', 'lr'), 'context-encoder-local': ('corrupt', 'size', 'cells', 'noise', 'overlap', 'lambda_rec', 'lambda_adv', 'discriminator_lr', 'discriminator_width', 'modules', 'lr'), 'distil': ('temperature', 'alpha', 'lr')}
OTHER_NAMES = {'backprop': 'bp', 'backpropagation': 'bp', 'end-to-end': 'bp', 'e2e': 'bp', 'decoupled greedy learning': 'dgl', 'decoupled greedy': 'dgl', 'greedy local': 'dgl', 'synthetic gradients': 'dni', 'decoupled neural interfaces': 'dni', 'decoupled neural interface': 'dni', 'conditional dni': 'cdni', 'conditional synthetic gradients': 'cdni', 'feedback alignment': 'fa', 'random feedback': 'fa', 'direct feedback alignment': 'dfa', 'direct feedback': 'dfa', 'layerwise': 'greedy', 'sequential': 'greedy', 'greedy layerwise': 'greedy', 'sequential greedy': 'greedy', 'chunks': 'chunked', 'overlapping': 'overlap', 'overlapping local updates': 'overlap', 'local contrastive': 'loco', 'async dgl': 'dgl-async', 'asynchronous dgl': 'dgl-async', 'asynchronous decoupled greedy learning': 'dgl-async', 'kolen-pollack': 'kp', 'sign symmetry': 'usf', 'uniform sign feedback': 'usf', 'sign-symmetric feedback': 'usf', 'batchwise random sign feedback': 'brsf', 'batchwise random magnitude sign feedback': 'brsf', 'fixed random sign feedback': 'frsf', 'fixed random magnitude sign feedback': 'frsf', 'local error signals': 'predsim', 'local errors': 'predsim', 'local loss': 'predsim', 'predictive similarity': 'predsim', 'information propagation': 'infopro', 'informative local propagation': 'infopro', 'unlocked dni': 'dni-unlocked', 'synthetic inputs': 'dni-unlocked', 'frozen': 'shallow', 'random features': 'shallow', 'contrastive': 'simclr', 'contrastive learning': 'simclr', 'local simclr': 'simclr-local', 'greedy simclr': 'simclr-local', 'contrastive predictive coding': 'cpc', 'local cpc': 'cpc-local', 'greedy cpc': 'cpc-local', 'greedy infomax': 'infomax', 'gim': 'infomax', 'inpainting': 'context-encoder', 'inpaint': 'context-encoder', 'local context encoder': 'context-encoder-local', 'distillation': 'distil', 'knowledge distillation': 'distil', 'distill': 'distil', 'kd': 'distil'}
MODELS = ('basic-cnn', 'vgg11', 'vgg13', 'vgg16', 'vgg19', 'resnet18', 'resnet20', 'resnet32', 'resnet50', 'resnet152', 'resnet-gim', 'dcgan', 'mlp', 'linear', 'gcn', 'cheb', 'sage', 'gat', 'transformer', 'deepfm', 'deep-cross', 'autoint', 'afn', 'nerf-tiny', 'nerf', 'nerf-tiny-pair', 'nerf-pair', 'coordinate-mlp')
DATASETS = ('digits', 'hierarchical', 'sequences', 'cifar10', 'cifar100', 'mnist', 'fashion-mnist', 'svhn', 'stl10')
QUANTITIES = ('cosine', 'angle', 'norm_ratio', 'sign_agreement', 'norm', 'true_norm', 'zeros', 'true_zeros', 'projection', 'relative_error', 'reached', 'true_reached', 'null_cosine', 'corrected_cosine', 'across_halves', 'noise_ceiling', 'rule_ceiling', 'predicted_change', 'measured_change', 'descent_ratio', 'feedback_transpose', 'feedback_pseudoinverse', 'feedback_jacobian', 'synth_loss', 'synth_explained_variance', 'stage', 'staleness', 'input_error', 'input_explained_variance', 'information_bound', 'reconstruction', 'discriminator_loss', 'real', 'fake')
IN_CONFIG = ('method', 'options', 'task', 'task_options', 'data', 'limit', 'limit_test', 'labels', 'label_noise', 'validation', 'augment', 'normalize', 'model', 'width', 'depth', 'stem', 'activation', 'attention', 'heads', 'dropout', 'attention_dropout', 'pre_norm', 'embedding', 'interactions', 'cut', 'loss', 'epochs', 'steps', 'early_stopping', 'batch_size', 'optimizer', 'lr', 'momentum', 'nesterov', 'beta1', 'beta2', 'clip', 'weight_decay', 'decay_blocks', 'lr_schedule', 'warmup', 'seed', 'precision', 'compile', 'record_every', 'diagnose_every', 'keep_checkpoints', 'evaluate_train', 'online_probe', 'init_from', 'keep_head', 'teacher', 'ranks', 'parallel', 'sync_batchnorm', 'record_ranks', 'split', 'stale', 'schedule', 'microbatches', 'own')
DEFAULT_RULES = {'compare-gradients': ('bp', 'dgl', 'dni', 'cdni'), 'bench': ('bp', 'dgl', 'dni', 'cdni'), 'timeline': ('bp', 'dgl', 'dgl-async', 'dni', 'dni-unlocked', 'dfa'), 'memorize': ('bp', 'dgl')}
RULES_READ = {'inpaint': ('context-encoder', 'context-encoder-local')}

DIGESTS = {  # of the files that say so; where one has changed since, a name is not refused before torch is imported
    'methods/__init__.py': '240a8b5d0786',
    'models/zoo.py': '9d94283eb457',
    'data/datasets.py': '1d7f2796096e',
    'tasks/registry.py': 'e10a6ef961f5',
    'gradients/alignment.py': '2b84b662ba12',
    'gradients/diagnostics.py': 'c2c30707a8e1',
    'training/config.py': '8aef76d14aa5',
    'training/setting_groups.py': '64fcef768aa4',
    'models/spec.py': 'c28fb8e838ec',
    'gradients/losses.py': 'cd506db41c01',
    'data/transforms.py': '1dd63b98e326',
}

SETTINGS = (
    Flag('task', str, 'what is learned: images, graphs, links, language, clicks, views, pictures (default images)', 'Training', choices=('images', 'graphs', 'links', 'language', 'clicks', 'views', 'pictures')),
    Flag('data', str, 'digits, hierarchical, sequences, cifar10, cifar100, mnist, fashion-mnist, svhn, stl10, an image folder, an .npz file, or FILE.py:build (default digits)', 'Data', choices=('digits', 'hierarchical', 'sequences', 'cifar10', 'cifar100', 'mnist', 'fashion-mnist', 'svhn', 'stl10'), synonyms=('dataset', 'data-set')),
    Flag('limit', int, 'train on N images, a seeded choice (default all)', 'Data', synonyms=('num-train', 'train-size', 'subset')),
    Flag('limit-test', int, 'test on N of the test images, a seeded choice (default all)', 'Data', synonyms=('num-test', 'test-size')),
    Flag('labels', float, "share of each class's images that keep their labels, as 0.01; rules without labels use the others too (default 1)", 'Data', synonyms=('label-fraction',)),
    Flag('label-noise', float, 'replace each training label with probability P by a random one, once (default 0)', 'Data', synonyms=('noise',)),
    Flag('validation', float, 'hold out this share of the training images and test on it (default 0)', 'Data', synonyms=('val', 'val-split', 'holdout')),
    Flag('augment', bool, 'random flips, and crops after padding with 4 pixels (default off)', 'Data', paired=True, synonyms=('augmentation', 'data-augmentation', 'aug')),
    Flag('normalize', str, 'pixels: pm1, gaussian, none (pm1: to -1..+1) (default pm1)', 'Data', choices=('pm1', 'gaussian', 'none'), synonyms=('norm', 'normalization', 'normalise')),
    Flag('model', str, 'basic-cnn, vgg11, vgg13, vgg16, vgg19, resnet18, resnet20, resnet32, resnet50, resnet152, resnet-gim, dcgan, mlp, linear, gcn, cheb, sage, gat, transformer, deepfm, deep-cross, autoint, afn, nerf-tiny, nerf, nerf-tiny-pair, nerf-pair, coordinate-mlp, torchvision:NAME, or FILE.py:build (default basic-cnn)', 'Model', choices=('basic-cnn', 'vgg11', 'vgg13', 'vgg16', 'vgg19', 'resnet18', 'resnet20', 'resnet32', 'resnet50', 'resnet152', 'resnet-gim', 'dcgan', 'mlp', 'linear', 'gcn', 'cheb', 'sage', 'gat', 'transformer', 'deepfm', 'deep-cross', 'autoint', 'afn', 'nerf-tiny', 'nerf', 'nerf-tiny-pair', 'nerf-pair', 'coordinate-mlp'), synonyms=('arch', 'architecture', 'network', 'net', 'backbone')),
    Flag('width', int, 'channels of basic-cnn (128); first ones of vgg, dcgan (64), resnet (64, 20/32: 16); units of mlp (256), linear (20); features of gcn, cheb, sage (16), of each head of gat (8), of transformer (128); units of deepfm, autoint, afn (400), deep-cross (1024), nerf and coordinate-mlp (128)', 'Model', synonyms=('channels', 'hidden', 'hidden-size', 'hidden-dim')),
    Flag('depth', int, 'blocks of basic-cnn (3), mlp (3), linear (1), or gcn, cheb, sage, gat (1); layers of transformer, nerf (4), nerf-tiny and coordinate-mlp (2); hidden layers of deepfm, autoint, afn (3), deep-cross (2)', 'Model', synonyms=('layers', 'num-layers')),
    Flag('stem', int, 'kernel of the first convolution: 3, 5, 7 (default basic-cnn and resnet-gim 5, others 3)', 'Model', choices=('3', '5', '7'), synonyms=('kernel-size',)),
    Flag('activation', str, 'relu, leaky-relu, elu, gelu, silu, tanh, sigmoid (default relu)', 'Model', choices=('relu', 'leaky-relu', 'elu', 'gelu', 'silu', 'tanh', 'sigmoid'), synonyms=('act', 'nonlinearity')),
    Flag('attention', str, 'channel attention of resnet18, 20, 32, 50, 152: none, se, sk (default none)', 'Model', choices=('none', 'se', 'sk')),
    Flag('heads', int, 'attention heads of gat (8), of a layer of transformer (4) or autoint (2)', 'Model', synonyms=('num-heads', 'n-head')),
    Flag('dropout', float, 'dropout of graph networks, transformer, and of the hidden layers of deepfm, deep-cross, autoint, afn (default 0)', 'Model', synonyms=('drop',)),
    Flag('attention-dropout', str, "dropout of gat's attention coefficients; two numbers, as 0.6,0: hidden layers, output layer (default 0)", 'Model'),
    Flag('pre-norm', bool, 'transformer: LayerNorm before attention and feed-forward, not after their sums (default off)', 'Model', paired=True, synonyms=('norm-first',)),
    Flag('embedding', int, 'numbers of the vector of an id: deepfm, afn (10), deep-cross, autoint (16)', 'Model', synonyms=('embed-dim', 'embedding-size')),
    Flag('interactions', int, 'cross layers of deep-cross (6), attention layers of autoint (3), logarithmic neurons of afn (1500)', 'Model', synonyms=('cross-layers', 'neurons')),
    Flag('cut', str, 'where blocks end: after-pool, before-pool (default after-pool)', 'Model', choices=('after-pool', 'before-pool')),
    Flag('loss', str, 'ce, mse, bce (default ce)', 'Training', choices=('ce', 'mse', 'bce'), synonyms=('criterion', 'objective')),
    Flag('epochs', int, 'passes over the training images; 0 is the untrained control (default 12)', 'Course of training', synonyms=('num-epochs', 'max-epochs', 'n-epochs', 'epoch')),
    Flag('steps', int, 'stop after N updates', 'Course of training', synonyms=('max-steps', 'num-steps', 'iterations', 'updates')),
    Flag('early-stopping', int, 'stop after N epochs without a better validation score, with the weights of the best one', 'Course of training', synonyms=('patience', 'early-stop', 'early-stopping-patience')),
    Flag('batch-size', int, 'images per update (default 256)', 'Training', synonyms=('bs', 'batch', 'batchsize', 'b')),
    Flag('optimizer', str, 'adam, adamw, sgd, sgdw, rmsprop, lars (sgdw: decoupled decay) (default adam)', 'Training', choices=('adam', 'adamw', 'sgd', 'sgdw', 'rmsprop', 'lars'), synonyms=('optim', 'optimiser', 'opt')),
    Flag('lr', float, 'learning rate; a rule may have its own (default 0.0003)', 'Training', synonyms=('learning-rate',)),
    Flag('momentum', float, 'momentum of sgd, sgdw, rmsprop and lars (default 0)', 'Training'),
    Flag('nesterov', bool, 'Nesterov momentum for sgd and sgdw (default off)', 'Training', paired=True),
    Flag('beta1', float, "decay of adam's and adamw's mean gradient (default 0.9)", 'Training', synonyms=('betas', 'beta')),
    Flag('beta2', float, "decay of adam's and adamw's mean squared gradient (default 0.999)", 'Training'),
    Flag('clip', float, 'scale the gradient of all parameters together down to this norm (default: never)', 'Training', synonyms=('clip-grad', 'grad-clip', 'clip-grad-norm', 'max-grad-norm')),
    Flag('weight-decay', float, 'L2 penalty; with adamw and sgdw decoupled decay; with lars of weights only (default 0)', 'Training', synonyms=('wd', 'decay', 'l2')),
    Flag('decay-blocks', int, 'weight decay of the first N blocks only (default all)', 'Training'),
    Flag('lr-schedule', str, 'constant, cosine, step, exponential, inverse-sqrt (step: x0.1 at 1/2 and 3/4; exponential: to a tenth; inverse-sqrt: lr is that at the end of --warmup) (default constant)', 'Course of training', choices=('constant', 'cosine', 'step', 'exponential', 'inverse-sqrt'), synonyms=('scheduler', 'lr-scheduler', 'lr-decay')),
    Flag('warmup', int, 'updates of linear learning-rate warm-up (default 0)', 'Course of training', synonyms=('warmup-steps', 'lr-warmup')),
    Flag('seed', int, 'seed of all random numbers (default 0)', 'Training', synonyms=('random-seed', 'manual-seed')),
    Flag('precision', str, 'fp32, bf16, auto (auto: bf16 where the device has it natively) (default fp32)', 'Machine', choices=('fp32', 'bf16', 'auto'), synonyms=('dtype', 'amp', 'bf16', 'mixed-precision')),
    Flag('compile', bool, 'torch.compile each block (default off)', 'Machine', paired=True, synonyms=('torch-compile',)),
    Flag('record-every', int, 'measure the true gradient every N updates; 0 = never (default 10)', 'Records', synonyms=('log-every', 'log-interval')),
    Flag('diagnose-every', int, 'at every N-th measured update also chance, noise, feedback, descent; 0 = never (default 5)', 'Records'),
    Flag('keep-checkpoints', int, 'keep N snapshots of the weights along the way (default 0)', 'Records', synonyms=('checkpoints', 'snapshots', 'save-every')),
    Flag('evaluate-train', bool, 'after each epoch evaluate the training images in eval mode too (default off)', 'Records', paired=True),
    Flag('online-probe', bool, 'per block, a linear learner on its activations, updated every step; its regret (default off)', 'Records', paired=True, synonyms=('probe',)),
    Flag('init-from', str, 'start from the weights of this run', 'Course of training', synonyms=('pretrained', 'checkpoint', 'weights', 'load')),
    Flag('keep-head', int, 'with --init-from a simclr run: keep N layers of its projection head below a new output block (default 0)', 'Course of training'),
    Flag('teacher', str, 'run directory of the teacher network of distil', 'Course of training'),
    Flag('parallel', str, "none, data, layers: what torchrun's processes share, each batch (data; the default under torchrun) or the network (layers) (default none)", 'Ranks', choices=('none', 'data', 'layers'), synonyms=('ddp', 'distributed', 'strategy')),
    Flag('sync-batchnorm', bool, "with --parallel data: BatchNorm over all ranks' images (default off)", 'Ranks', paired=True, synonyms=('sync-bn',)),
    Flag('record-ranks', bool, "with --parallel data: rows of each rank's own gradient too (default off)", 'Records', paired=True),
    Flag('split', str, 'with --parallel layers: blocks of each rank, as 4,5,5 (default: by cost measured at the start)', 'Ranks'),
    Flag('stale', bool, 'with --parallel layers: rules that wait for a message use that of an earlier batch (default off)', 'Ranks', paired=True),
    Flag('schedule', str, "torch's pipeline schedule of bp with --parallel layers: 1f1b, gpipe (default 1f1b)", 'Ranks', choices=('1f1b', 'gpipe')),
    Flag('microbatches', int, 'microbatches of a batch, for bp with --parallel layers (default 4)', 'Ranks', synonyms=('micro-batches', 'chunks')),
)
