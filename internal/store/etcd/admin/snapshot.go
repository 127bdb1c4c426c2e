package admin

import (
	"context"
	"fmt"
	"io"
	"os"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
)

// Save copies everything that the server holds to w. The end of the copy is its checksum, which Restore verifies.
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

// SaveFile writes a snapshot, whole or not at all.
func SaveFile(ctx context.Context, cli *clientv3.Client, file string) (n int64, err error) {
	tmp := file + ".part"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) // it holds what etcd holds
	if err != nil {
		return 0, err
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(tmp)
		}
	}()
	if n, err = Save(ctx, cli, f); err != nil {
		return n, err
	}
	if err = f.Sync(); err != nil {
		return n, err
	}
	return n, os.Rename(tmp, file)
}

// Restored says whose data directory is made of a snapshot.
type Restored struct {
	File    string
	DataDir string // must not exist, or be empty
	Name    string
	PeerURL string
	Token   string
}

// revisionBump is added to the revision of what is restored. Clients have seen higher revisions than the snapshot has;
// after it no revision means two things, and what they remember counts as compacted, so that they list again.
const revisionBump = 1_000_000_000

// Restore makes the data directory of a new cluster of one member out of a snapshot.
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
