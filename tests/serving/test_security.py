"""Certificates and tokens as files: what is refused, and what happens when they change."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from serving import security
from serving.client import Security
from serving.errors import SecurityError
from serving.security import Certificates, Tokens

FIRST, SECOND, THIRD = ("first-0123456789", "second-0123456789", "third-0123456789==")

_MTIMES = itertools.count(1_700_000_000)


def rewrite(path: Path, data: bytes) -> None:
    """Writes a file with a time of its own, whatever the resolution of the file system's."""
    path.write_bytes(data)
    second = next(_MTIMES)
    os.utime(path, (second, second))


@pytest.fixture(autouse=True)
def looks_at_files_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "LOOK_SECONDS", 0.0)


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


Issue = Callable[..., tuple[Path, Path]]


@pytest.fixture
def issue(ca: trustme.CA, tmp_path: Path) -> Issue:
    """Writes a certificate of the authority's and its key under fixed names."""

    def issue_one(name: str = "server") -> tuple[Path, Path]:
        made = ca.issue_cert("127.0.0.1", "localhost")
        chain, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        rewrite(chain, b"".join(pem.bytes() for pem in made.cert_chain_pems))
        rewrite(key, made.private_key_pem.bytes())
        return chain, key

    return issue_one


class TestCertificates:
    def test_the_files_are_what_they_hold(self, issue: Issue) -> None:
        chain, key = issue()
        pems = Certificates(chain, key, None).pems
        assert (pems.chain, pems.key, pems.client_ca) == (chain.read_bytes(), key.read_bytes(), None)

    @pytest.mark.parametrize(("missing", "what"), [(0, "certificate"), (1, "key")])
    def test_a_missing_file_is_named(self, issue: Issue, missing: int, what: str) -> None:
        files = issue()
        files[missing].unlink()
        with pytest.raises(SecurityError, match=rf"^the {what} \S+ cannot be read: No such file or directory$"):
            Certificates(*files, None)

    def test_a_missing_authority_is_named(self, issue: Issue, tmp_path: Path) -> None:
        with pytest.raises(SecurityError, match=r"^the file of authorities \S+ cannot be read: No such file"):
            Certificates(*issue(), tmp_path / "none.pem")

    def test_a_key_of_another_certificate_is_refused(self, issue: Issue) -> None:
        chain, _ = issue()
        _, key = issue("other")
        with pytest.raises(SecurityError, match=r"^the key \S+other.key is not that of the certificate \S+server.pem$"):
            Certificates(chain, key, None)

    @pytest.mark.parametrize("which", [0, 1])
    def test_what_is_no_pem_file_is_refused(self, issue: Issue, which: int) -> None:
        files = issue()
        files[which].write_bytes(b"garbage")
        with pytest.raises(SecurityError, match=r"are PEM files of a certificate and of its key. Received: "):
            Certificates(*files, None)

    def test_an_empty_file_of_authorities_is_refused(self, issue: Issue, tmp_path: Path) -> None:
        (tmp_path / "ca.pem").touch()
        with pytest.raises(SecurityError, match=r"is a PEM file of certificates. Received: "):
            Certificates(*issue(), tmp_path / "ca.pem")

    def test_an_encrypted_key_is_refused_and_nobody_is_asked(self, issue: Issue) -> None:
        from cryptography.hazmat.primitives import serialization

        chain, key = issue()
        private = serialization.load_pem_private_key(key.read_bytes(), None)
        encrypted = private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
        rewrite(key, encrypted)
        with pytest.raises(SecurityError, match=r"^the key \S+ is encrypted"):
            Certificates(chain, key, None)

    def test_new_files_are_taken(self, issue: Issue) -> None:
        certificates = Certificates(*issue(), None)
        pems, context = certificates.pems, certificates.context
        assert (certificates.pems, certificates.context) == (pems, context)
        issue()
        assert certificates.pems.chain != pems.chain
        assert certificates.context is not context

    def test_the_old_stay_until_both_files_are_new(self, issue: Issue, caplog: pytest.LogCaptureFixture) -> None:
        chain, key = issue()
        certificates = Certificates(chain, key, None)
        before = certificates.pems
        new_chain, new_key = issue("other")
        rewrite(chain, new_chain.read_bytes())
        assert certificates.pems is before
        assert "the certificate is not renewed, the one before stays: the key" in caplog.text
        rewrite(key, new_key.read_bytes())
        assert certificates.pems.key == new_key.read_bytes()


class TestTokens:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        rewrite(tmp_path / "tokens", f"# of the clients\n{FIRST}\n\n  {SECOND}  \n{THIRD}".encode())
        return tmp_path / "tokens"

    @pytest.mark.parametrize("token", [FIRST, SECOND, THIRD])
    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
    def test_each_is_let_in(self, file: Path, token: str, scheme: str) -> None:
        assert Tokens(file).admit(f"{scheme} {token}")

    @pytest.mark.parametrize(
        "sent",
        [
            None,
            "",
            FIRST,
            "Bearer ",
            "Bearer",
            f"Basic {FIRST}",
            f"Bearer {FIRST} ",
            f"Bearer {FIRST[:-1]}",
            f"Bearer {FIRST}x",
            f"Bearer {FIRST},{SECOND}",
            "Bearer # of the clients",
            "Bearer \N{BLACK STAR}",
            f"Bearer {FIRST}".encode(),
        ],
    )
    def test_nothing_else_is(self, file: Path, sent: str | bytes | None) -> None:
        assert not Tokens(file).admit(sent)

    def test_a_new_file_counts_from_the_next_request_on(self, file: Path) -> None:
        tokens = Tokens(file)
        rewrite(file, f"{SECOND}\nfourth-0123456789\n".encode())
        assert [tokens.admit(f"Bearer {each}") for each in (FIRST, SECOND, "fourth-0123456789")] == [False, True, True]

    @pytest.mark.parametrize("data", [None, b"", b"short\n"])
    def test_those_before_stay_while_the_file_cannot_be_used(
        self, file: Path, data: bytes | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        tokens = Tokens(file)
        if data is None:
            file.unlink()
        else:
            rewrite(file, data)
        assert tokens.admit(f"Bearer {FIRST}")
        assert "the tokens are not renewed, those before stay" in caplog.text

    @pytest.mark.parametrize(
        ("data", "complaint"),
        [
            (b"", "has at least one token. Received: none"),
            (b"# none yet\n", "has at least one token. Received: none"),
            (b"# two\ntoo-short\n", "something else in line 2, of 9 characters"),
            (b"with spaces between", "something else in line 1, of 19 characters"),
            ("sécurité-sécurité".encode(), "something else in line 1"),
        ],
    )
    def test_what_is_no_token_is_refused_and_not_shown(self, file: Path, data: bytes, complaint: str) -> None:
        rewrite(file, data)
        with pytest.raises(SecurityError) as caught:
            Tokens(file)
        assert complaint in str(caught.value)
        assert "short" not in str(caught.value)

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(SecurityError, match=r"^the token file \S+none cannot be read: No such file or directory$"):
            Tokens(tmp_path / "none")


class TestClientSecurity:
    def test_without_anything_there_is_nothing(self) -> None:
        assert (Security().credentials(), Security().metadata()) == (None, ())

    def test_the_first_token_of_a_file_is_sent_and_read_anew(self, tmp_path: Path) -> None:
        rewrite(tmp_path / "token", f"{FIRST}\n{SECOND}\n".encode())
        client = Security(token_file=tmp_path / "token")
        assert client.metadata() == (("authorization", f"Bearer {FIRST}"),)
        rewrite(tmp_path / "token", SECOND.encode())
        assert client.metadata() == (("authorization", f"Bearer {SECOND}"),)

    def test_what_does_not_go_together_is_refused(self, issue: Issue) -> None:
        chain, key = issue()
        with pytest.raises(SecurityError, match="a client certificate and its key come together"):
            Security(certificate=chain)
        with pytest.raises(SecurityError, match="a client certificate and its key come together"):
            Security(key=key)
        with pytest.raises(SecurityError, match=r"the token comes by itself or in a file. Received: both"):
            Security(token=FIRST, token_file="token")

    def test_files_are_looked_at_before_a_connection_is_made(self, issue: Issue, tmp_path: Path) -> None:
        chain, _ = issue()
        with pytest.raises(SecurityError, match="cannot be read: No such file"):
            Security(ca=tmp_path / "none.pem")
        with pytest.raises(SecurityError, match="is not that of the certificate"):
            Security(certificate=chain, key=issue("other")[1])
