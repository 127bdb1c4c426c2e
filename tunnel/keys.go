package tunnel

import (
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/warrennet/warren/internal/atomicfile"
	"github.com/warrennet/warren/internal/model"
	"golang.org/x/sys/unix"
)

// LoadOrCreateKey reads the node's private key from a file that only its owner can read. It creates key and file if there is no file.
// It never replaces a key: a file that is unreadable or accessible to other users is an error that names the remedy.
func LoadOrCreateKey(path string) (model.Key, error) {
	key, err := loadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	key, err = newKey()
	if err != nil {
		return model.Key{}, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return model.Key{}, fmt.Errorf("write key %s: %w", path, err)
	}
	switch err := atomicfile.WriteNew(path, []byte(key.String()+"\n"), 0o600); {
	case errors.Is(err, fs.ErrExist):
		return loadKey(path) // another process has created it: its key is used
	case err != nil:
		return model.Key{}, fmt.Errorf("create the private key: %w", err)
	}
	return key, nil
}

// PublicKey returns the public key that belongs to a private one.
func PublicKey(private model.Key) (model.Key, error) {
	k, err := ecdh.X25519().NewPrivateKey(private[:])
	if err != nil {
		return model.Key{}, fmt.Errorf("derive public key: %w", err)
	}
	return model.Key(k.PublicKey().Bytes()), nil
}

// SharedSecret returns the X25519 secret of a private key and another node's public key. It must not be used without a key
// derivation function.
func SharedSecret(private, peer model.Key) ([]byte, error) {
	k, err := ecdh.X25519().NewPrivateKey(private[:])
	if err != nil {
		return nil, fmt.Errorf("derive a shared secret: %w", err)
	}
	public, err := ecdh.X25519().NewPublicKey(peer[:])
	if err != nil {
		return nil, fmt.Errorf("derive a shared secret: %w", err)
	}
	secret, err := k.ECDH(public)
	if err != nil {
		return nil, fmt.Errorf("derive a shared secret with public key %s: %w", peer, err)
	}
	return secret, nil
}

func newKey() (model.Key, error) {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return model.Key{}, fmt.Errorf("generate private key: %w", err)
	}
	key := model.Key(k.Bytes())
	key[0] &= 248 // clamped as wg(8) writes it, so that both print the same key
	key[31] = key[31]&127 | 64
	return key, nil
}

func loadKey(path string) (model.Key, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return model.Key{}, fmt.Errorf("open key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return model.Key{}, fmt.Errorf("open key: %w", err)
	}
	if !info.Mode().IsRegular() {
		return model.Key{}, fmt.Errorf("key %s: expected a regular file", path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return model.Key{}, fmt.Errorf("key %s: other users can read it (mode %#o): run chmod 600 on it; "+
			"if others had access, delete it so that a new one is created", path, info.Mode().Perm())
	}
	b := make([]byte, 64)
	n, _ := f.Read(b)
	key, err := model.ParseKey(strings.TrimSpace(string(b[:n])))
	if err != nil || key.IsZero() {
		return model.Key{}, fmt.Errorf("key %s: expected a private key (44 characters of base64): "+
			"restore it, or delete it so that a new one is created", path)
	}
	return key, nil
}
