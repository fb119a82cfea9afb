"""The pretended CUDA device computes what the CPU does, and refuses what CUDA refuses."""

import copy
import pickle

import pretended_gpu
import pytest
import torch
from pretended_gpu import OnCard

from steelnb import runtime
from steelnb.network.unet import UNet

pytestmark = pytest.mark.usefixtures("card")


@pytest.fixture
def card():
    with pretended_gpu.pretended():
        yield


def test_a_tensor_goes_there_and_back():
    here = torch.arange(6.0).reshape(2, 3)
    there = here.to("cuda")
    assert there.is_cuda
    assert there.device == torch.device("cuda", 0)
    assert torch.equal((2 * there + 1).T.cpu(), (2 * here + 1).T)
    assert torch.zeros(2, device="cuda").is_cuda
    assert not there.to("cpu").is_cuda
    assert there.to(torch.float16).is_cuda
    assert there.sum().item() == 15


@pytest.mark.parametrize(
    ("refused", "error", "message"),
    [
        (lambda there: there + torch.ones(3), RuntimeError, "same device"),
        (lambda there: torch.cat([there, torch.ones(3)]), RuntimeError, "same device"),
        (lambda there: there.numpy(), TypeError, "cuda:0"),
        (lambda there: there.pin_memory(), RuntimeError, "pin"),
        (lambda there: pickle.dumps(there), RuntimeError, "pickled"),
        (lambda there: torch.rand(3, device="cuda", generator=torch.Generator()), RuntimeError, "generator"),
        (lambda there: torch.nn.Linear(3, 1)(there), RuntimeError, "same device"),
    ],
)
def test_what_cuda_refuses_is_refused(refused, error, message):
    with pytest.raises(error, match=message):
        refused(torch.ones(3, device="cuda"))


def test_it_counts_how_often_the_cpu_waits():
    there = torch.ones(3, device="cuda")
    before = OnCard.waits
    there = there * 2 + 1
    assert OnCard.waits == before
    there.sum().item()
    there[there > 0]
    there.cpu()
    assert OnCard.waits == before + 3


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_network_learns_as_on_the_cpu(kind):
    windows, masks = torch.rand(2, 1, 44, 44), torch.rand(2, 1, 4, 4).round()
    torch.manual_seed(0)
    here = UNet(width=2, depth=2, norm="none")  # a bias before a batch norm gets a gradient of rounding alone
    there = copy.deepcopy(here).to("cuda")
    for model in (here, there):
        device = next(model.parameters()).device
        optimizer = kind(model.parameters(), lr=0.1, fused=device.type == "cuda" or None)
        for _ in range(3):
            optimizer.zero_grad()
            logits = model(windows.to(device))[..., :4, :4]
            torch.nn.functional.binary_cross_entropy_with_logits(logits, masks.to(device)).backward()
            optimizer.step()
    for one, other in zip(here.state_dict().values(), there.state_dict().values(), strict=True):
        assert other.is_cuda
        torch.testing.assert_close(one, other.cpu())


def test_autocast_computes_in_the_cards_precision():
    model = UNet(width=2, depth=2).to("cuda")
    with runtime.autocast(runtime.device()):
        assert model(torch.rand(1, 1, 44, 44, device="cuda")).dtype is torch.float16


@pytest.mark.parametrize("name", pretended_gpu.CARDS)
def test_the_runtime_sees_each_card(name, monkeypatch):
    monkeypatch.delenv("STEELNB_PROFILE", raising=False)
    card = pretended_gpu.CARDS[name]
    with pretended_gpu.pretended(card):
        assert runtime.device().type == "cuda"
        assert runtime.precision(runtime.device()) is card.precision
        assert card.name in runtime.describe()
        assert runtime.profile() == "full"


def test_the_way_back_of_a_sort():
    """Which some versions of PyTorch compute into zeros that they make on the CPU; nobody else may do that."""
    there = torch.tensor([3.0, 1.0, 2.0], device="cuda", requires_grad=True)
    (there.sort().values * torch.tensor([1.0, 2.0, 3.0], device="cuda")).sum().backward()
    assert there.grad.is_cuda
    assert there.grad.tolist() == [3, 1, 2]
    with pytest.raises(RuntimeError, match="same device"):
        torch.zeros(3).scatter(0, torch.arange(3, device="cuda"), there.detach())
