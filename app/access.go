package app

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"

	"github.com/fnlb/fnlb/api/access"
	"github.com/fnlb/fnlb/config"
)

// minToken is the least length of a bearer token that is worth the name.
const minToken = 16

// accessRules reads the token and says once when nobody needs one.
func accessRules(s *config.Settings, log *slog.Logger) (access.Rules, error) {
	r := access.Rules{Allow: s.MgmtAllow, AllowSet: s.MgmtAllow != nil, Hosts: s.MgmtHosts}
	if s.MgmtTokenFile == "" {
		who := "loopback and private ranges"
		if r.AllowSet {
			who = fmt.Sprint(s.MgmtAllow)
		}
		log.Warn("nodes can be changed without a token; --mgmt-token-file asks for one", "by", who)
		return r, nil
	}
	info, err := os.Stat(s.MgmtTokenFile)
	if err != nil {
		return r, fmt.Errorf("token: %w; correct --mgmt-token-file", err)
	}
	if info.Mode().Perm()&0o007 != 0 {
		log.Warn("everybody on this host can read the token", "file", s.MgmtTokenFile, "mode", info.Mode().Perm())
	}
	token, err := os.ReadFile(s.MgmtTokenFile)
	if err != nil {
		return r, fmt.Errorf("token: %w; %s", err, mendRead(s.MgmtTokenFile, err, "correct --mgmt-token-file"))
	}
	r.Token = bytes.TrimSpace(token)
	if len(r.Token) < minToken {
		return r, fmt.Errorf("token: %s has fewer than %d characters; openssl rand -hex 32 makes a good one", s.MgmtTokenFile, minToken)
	}
	return r, nil
}
