package admin

import (
	"context"
	"fmt"
	"io"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"

	"github.com/warrennet/warren/internal/atomicfile"
)

// Save writes a snapshot of the server's database to w. It ends with its checksum, which Restore verifies.
func Save(ctx context.Context, cli *clientv3.Client, w io.Writer) (int64, error) {
	r, err := cli.SnapshotWithVersion(ctx)
	if err != nil {
		return 0, fmt.Errorf("take a snapshot of etcd: %w", err)
	}
	defer r.Snapshot.Close()
	n, err := io.Copy(w, r.Snapshot)
	if err != nil {
		return n, fmt.Errorf("copy the snapshot of etcd: %w", err)
	}
	return n, nil
}

// SaveFile writes a snapshot to a file, atomically. Only its owner can read it, as it has all records of the cluster.
func SaveFile(ctx context.Context, cli *clientv3.Client, file string) (n int64, err error) {
	err = atomicfile.WriteTo(file, 0o600, func(w io.Writer) (err error) {
		n, err = Save(ctx, cli, w)
		return err
	})
	return n, err
}

// Restored describes the member whose data directory Restore makes.
type Restored struct {
	File    string
	DataDir string // must not exist, or be empty
	Name    string
	PeerURL string
	Token   string
}

// revisionBump is added to the revision of the snapshot. Clients have seen higher revisions than that of the snapshot. With
// the bump no revision is used twice, and the revisions that clients have seen count as compacted, so that they list again.
const revisionBump = 1_000_000_000

// Restore makes the data directory of a new cluster with one member from a snapshot.
func Restore(r Restored) error {
	if r.Token == "" {
		r.Token = "warren"
	}
	err := snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath: r.File, Name: r.Name, OutputDataDir: r.DataDir, PeerURLs: []string{r.PeerURL},
		InitialCluster: r.Name + "=" + r.PeerURL, InitialClusterToken: r.Token,
		RevisionBump: revisionBump, MarkCompacted: true,
	})
	if err != nil {
		return fmt.Errorf("restore %s into %s: %w", r.File, r.DataDir, err)
	}
	return nil
}
