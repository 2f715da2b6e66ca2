import java.io.IOException;
import java.util.List;
import java.util.Map;
import org.opensearch.common.settings.Settings;
import org.opensearch.env.Environment;
import org.opensearch.index.reindex.ReindexPlugin;
import org.opensearch.node.InternalSettingsPreparer;
import org.opensearch.node.Node;
import org.opensearch.transport.Netty4Plugin;

/** A real OpenSearch node of the artifacts that Maven carries: its own distribution is not there, and a node alone brings no HTTP. */
public final class SearchNode extends Node {
  private SearchNode(Environment environment) {
    super(environment, List.of(Netty4Plugin.class, ReindexPlugin.class), false);
  }

  /** Each argument is a setting, name=value. */
  public static void main(String[] arguments) throws Exception {
    Settings.Builder settings = Settings.builder();
    for (String argument : arguments) {
      int equals = argument.indexOf('=');
      settings.put(argument.substring(0, equals), argument.substring(equals + 1));
    }
    SearchNode node = new SearchNode(InternalSettingsPreparer.prepareEnvironment(settings.build(), Map.of(), null, () -> "local"));
    Runtime.getRuntime().addShutdownHook(new Thread(() -> {
      try {
        node.close();
      } catch (IOException gone) {
        // The process ends anyhow.
      }
    }));
    node.start();
    Thread.currentThread().join();
  }
}
