package cli

import (
	"github.com/distribution/reference"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"
)

// dockerHubServer is the key of Docker Hub's credentials in config.json.
const dockerHubServer = "https://index.docker.io/v1/"

// registryKey is the name under which credentials of a registry are stored.
func registryKey(domain string) string {
	switch domain {
	case "docker.io", "index.docker.io", "registry-1.docker.io":
		return dockerHubServer
	}
	return domain
}

// registryAuth is the header with the credentials for an image's registry; without any it is
// an empty object, which old engines insist on.
func (a *app) registryAuth(named reference.Named) (string, error) {
	return a.registryAuthOf(reference.Domain(named))
}

func (a *app) registryAuthOf(domain string) (string, error) {
	key := registryKey(domain)
	found, err := credentialsOf(a.config(), key)
	if err != nil {
		return "", err
	}
	return authconfig.Encode(registry.AuthConfig{
		Username:      found.Username,
		Password:      found.Password,
		Auth:          found.Auth,
		ServerAddress: found.ServerAddress,
		IdentityToken: found.IdentityToken,
		RegistryToken: found.RegistryToken,
	})
}

func credentialsOf(config *configfile.ConfigFile, key string) (types.AuthConfig, error) {
	return config.GetAuthConfig(key)
}
