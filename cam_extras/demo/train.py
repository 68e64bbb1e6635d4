"""Train the demo's classifier: python -m cam_extras.demo.train [WEIGHTS]. About a minute on two cores."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import track
from safetensors.torch import save_file

from cam_extras.demo.canvases import make_canvases
from cam_extras.demo.classifier import WEIGHTS, Classifier, prepare

EPOCHS = 5
BATCH = 64
CANVASES = 6000
LEARNING_RATE = 6e-3


def train(seed: int = 0, epochs: int = EPOCHS, canvases: int = CANVASES) -> Classifier:
    """Train on canvases of the training digits; the same seed gives the same weights on the same machine."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier()
    generator = torch.Generator().manual_seed(seed)
    data = make_canvases(canvases, "train", seed=seed)
    images = prepare(data.images)
    batches_per_epoch = canvases // BATCH
    steps = epochs * batches_per_epoch
    optimiser = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps)
    for step in track(range(steps), "training"):
        if step % batches_per_epoch == 0:
            batches = torch.randperm(canvases, generator=generator).split(BATCH)
        chosen = batches[step % batches_per_epoch]
        loss = F.cross_entropy(model(images[chosen]), data.labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def accuracy(model: Classifier) -> float:
    """Return the accuracy on canvases of digits that were never trained on."""
    data = make_canvases(1000, "test", seed=1)
    with torch.no_grad():
        return float((model(prepare(data.images)).argmax(dim=1) == data.labels).float().mean())


def main() -> None:
    """Train, print the accuracy, and save."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name(WEIGHTS)
    model = train()
    save_file(model.state_dict(), path)
    sys.stdout.write(f"accuracy on held-out digits: {accuracy(model):.1%}\nsaved {path}\n")


if __name__ == "__main__":
    main()
