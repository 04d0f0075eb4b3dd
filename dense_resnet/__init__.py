from dense_resnet.variants import plan
