// Package disk stores what a node needs to start while the store is unreachable: its identity, its blocks, the last
// snapshot, the revoked machines, the API servers and the name servers. Each is one file with a versioned record, replaced
// atomically, mode 0600.
package disk

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/warrennet/warren/internal/atomicfile"
	"github.com/warrennet/warren/internal/model"
)

// Layout versions of the files.
const (
	identityLayout = 1
	blocksLayout   = 1
	snapshotLayout = 1
	serversLayout  = 1
	namesLayout    = 1
	revokedLayout  = 1
	rotationLayout = 1
)

// Dir is a node's state directory.
type Dir string

// identity identifies this machine. ID is made once; the name detects a disk that was copied to another node.
type identity struct {
	ID   string `json:"id"`
	Node string `json:"node"`
}

// Identity returns the node's identity, making it on first use. A disk that belongs to another node name is refused,
// because two nodes with one identity would share their addresses.
func (d Dir) Identity(node string) (string, error) {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return "", err
	}
	var id identity
	err := d.read("identity.json", identityLayout, &id)
	if errors.Is(err, fs.ErrNotExist) {
		id = identity{ID: randomID(), Node: node}
		return id.ID, d.write("identity.json", identityLayout, id)
	}
	if err != nil {
		return "", err
	}
	if len(id.ID) != 32 || id.Node == "" {
		return "", fmt.Errorf("%s: expected an id of 32 hex digits and a node name; restore the file, or remove %s to make this a new node",
			d.path("identity.json"), string(d))
	}
	if id.Node != node {
		return "", fmt.Errorf(
			"%s belongs to node %q but this node is %q: set nodeName back, or remove the directory if the disk was copied",
			d.path("identity.json"), id.Node, node)
	}
	return id.ID, nil
}

// Blocks returns the blocks this node held when it last ran; none on a new disk.
func (d Dir) Blocks() ([]netip.Prefix, error) {
	var b []netip.Prefix
	err := d.read("blocks.json", blocksLayout, &b)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// SetBlocks stores the node's blocks.
func (d Dir) SetBlocks(b []netip.Prefix) error { return d.write("blocks.json", blocksLayout, b) }

// Snapshot returns the last stored snapshot, or nil on a new disk.
func (d Dir) Snapshot() (*model.Snapshot, error) {
	s := &model.Snapshot{}
	err := d.read("snapshot.json", snapshotLayout, s)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// SetSnapshot stores a snapshot.
func (d Dir) SetSnapshot(s *model.Snapshot) error { return d.write("snapshot.json", snapshotLayout, s) }

// APIServers returns the Kubernetes API servers ("host:port") that were known when the node last ran.
func (d Dir) APIServers() ([]string, error) {
	var s []string
	err := d.read("apiservers.json", serversLayout, &s)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return s, err
}

// SetAPIServers stores the list of API servers.
func (d Dir) SetAPIServers(s []string) error { return d.write("apiservers.json", serversLayout, s) }

// Nameservers returns the name servers of the cluster when the node last ran.
func (d Dir) Nameservers() (model.Nameservers, error) {
	var n model.Nameservers
	err := d.read("nameservers.json", namesLayout, &n)
	if errors.Is(err, fs.ErrNotExist) {
		return model.Nameservers{}, nil
	}
	return n, err
}

// SetNameservers stores the name servers.
func (d Dir) SetNameservers(n model.Nameservers) error {
	return d.write("nameservers.json", namesLayout, n)
}

// Revocations returns the machines that the node's last run excluded.
func (d Dir) Revocations() (model.Revocations, error) {
	var l model.Revocations
	err := d.read("revoked.json", revokedLayout, &l)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return l, err
}

// SetRevocations stores the machines to exclude.
func (d Dir) SetRevocations(l model.Revocations) error {
	return d.write("revoked.json", revokedLayout, l)
}

// KeyRotation returns the request to replace the keys of all nodes that this node has carried out last.
func (d Dir) KeyRotation() (id string, err error) {
	err = d.read("rotation.json", rotationLayout, &id)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return id, err
}

// SetKeyRotation stores the request.
func (d Dir) SetKeyRotation(id string) error { return d.write("rotation.json", rotationLayout, id) }

// BootID returns the kernel's id of the current boot, 32 hex digits with dashes.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

func (d Dir) path(name string) string { return filepath.Join(string(d), name) }

func (d Dir) read(name string, layout int, value any) error {
	raw, err := os.ReadFile(d.path(name))
	if err != nil {
		return err
	}
	if err := model.Decode(raw, layout, value); err != nil {
		return fmt.Errorf("read %s: %w", d.path(name), err)
	}
	return nil
}

// write replaces a file atomically and durably.
func (d Dir) write(name string, layout int, value any) error {
	raw, err := model.Encode(layout, value)
	if err != nil {
		return err
	}
	return atomicfile.Write(d.path(name), append(raw, '\n'), 0o600)
}

func randomID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}
