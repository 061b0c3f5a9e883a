"""What the reference study says of its own learning curves, each sentence tested on a small net and a subset.

BasicCNN of width 16 on 1,000 images of CIFAR-10, batches of 64, 60 epochs (960 updates), learning rate decayed to zero along a cosine; accuracies are
those of all 10,000 test images, of the weights kept at a quarter, half, three quarters and the end ("best" is the best of these four, "final" the
last). The reference study has width 128, all 50,000 images, 1,500 epochs, a constant rate and one run of each, so a verdict is one on the sentence
at this size, not on its numbers. dni and cdni are the published ones (``target=mean zero_bias=false``); gradlens's defaults stand beside them.

Each sentence has one primary test, named before the runs were made (TESTS):

fit          "Both DGL and the regular model completely overfitted the training data, but DNI didn't, and cDNI almost did it": training
             accuracy of the last epoch. Completely: 99.5 % or more. DNI didn't: 10 points or more below bp (theirs: 15 to 27). Almost: 95 % or more
             (theirs: 99.7 % at best, 96 % at the end). "Synthetic gradients don't use the full capacity of the model": training the top alone on
             untrained blocks (``shallow``) fits as well as dni does.
accuracy     "DGL slightly outperformed the regular model"; "cDNI 73.7 %, DNI lags behind with 65.6 %": final test accuracy, difference above zero.
             "DGL causes some sort of regularization" although both reach zero loss: its gap between test and training loss is smaller than bp's.
augment      "Adding data-augmentations significantly improved performance": above zero for bp (9 points or more: a further test). "Now there is even
             less difference between DGL and regular back-prop": |dgl − bp| without augmentation minus with it, per seed, is above zero (noise raises
             both sizes alike). "DGL's train-loss decreased slower": mean training loss over epochs.
rate         "Increasing the learning-rate helped regular back-prop and harmed DGL training": SGD with momentum 0.9, augmented, 1e-3 (what the study's
             code had, and low) against 3e-3. Theirs was VGG16. Two tests, one for each half of the sentence.
normalize    "Data normalization helped a little bit (about 0.5%)": [-1, +1] above [0, 1]. "No significant difference between normalizing to
             [-1,+1] or to a unit gaussian": within a point of each other.

Seeds: 10 of bp and dgl, plain and augmented, and of the normalisations; 5 of dni, cdni, shallow and the rates; 3 of the defaults.
Smallest visible effect (80 % power, two-sided 5 %, before Holm): 1.0 standard deviations of the paired difference with 10 seeds, 1.7 with 5.

Cost: about 65 core-minutes, in seven stages, each a whole comparison; ``--stages N`` stops after the first N. Not tested, and what it would
cost in core-minutes of this machine:

- "cDNI … later slightly degraded", "DNI … later degraded": a constant rate and some hundred epochs after the peak; 2 rules x 5 seeds x 600
  epochs: 90 here; at the study's size (width 128, 50,000 images, 1,500 epochs) an accelerator.
- "Eventually both reached (almost) 0 loss" with augmentation: bp and dgl x 5 seeds x 600 epochs: 50.
- "VGG in the same ballpark", "VGG16 93.2 %": `python -m analyses.full_size` (priority 5): about 500, minutes on an accelerator.
- ten seeds of dni, cdni, shallow and the rates: 25.

    python -m analyses.learning_curves --data cifar10          # interrupted, it goes on
"""
